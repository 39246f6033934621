from rectiflow.scaling.blocks import Bullets, Chart, Part, Table, Text, to_html, to_markdown

PARTS = (
    Part("First", (Text("Plain."), Text("Loud.", is_bold=True), Bullets(("one", "two")))),
    Part("Second", (Table(("a", "b"), (("x", "1"), ("y", "2"))), Chart("curve", "A curve"))),
)


def test_parts_become_markdown_in_their_order():
    assert to_markdown(PARTS, 3, "figures/{}.svg".format) == (
        "### First\n\nPlain.\n\n**Loud.**\n\n- one\n- two\n\n"
        "### Second\n\n| a | b |\n| --- | --- |\n| x | 1 |\n| y | 2 |\n\n"
        "![A curve](figures/curve.svg)"
    )


def test_parts_become_a_page_in_their_order():
    page = to_html("Title", "Lead.", PARTS, {"curve": "<svg>drawn</svg>"})
    pieces = (
        "<h1>Title</h1>",
        "Lead.",
        "<h2>First</h2>",
        "<p>Plain.</p>",
        "<p><strong>Loud.</strong></p>",
        "<li>one</li><li>two</li>",
        "<h2>Second</h2>",
        "<th scope='row'>y</th><td>2</td>",
        'aria-label="A curve"><svg>drawn</svg>',
    )
    places = [page.index(piece) for piece in pieces]
    assert places == sorted(places)


def test_text_is_no_markup():
    """A message of a failed run may hold anything."""
    bad = "<script>&"
    parts = (Part(bad, (Text(bad), Text(bad, True), Bullets((bad,)), Table((bad,), ((bad,),)))),)
    page = to_html(bad, bad, (*parts, Part("", (Chart("c", bad),))), {"c": "<svg></svg>"})
    assert "<script" not in page
    assert page.count("&lt;script&gt;&amp;") == 10
