"""The verbs that look at networks by name."""

import json
import subprocess
import sys

import pytest

from rectiflow.cli.main import main
from rectiflow.nn.tables import every_row


def answer(capsys, *command):
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_tells_every_network_with_its_sizes(capsys):
    rows = answer(capsys, "model", "list")
    assert [row["name"] for row in rows] == [row.name for row in every_row()]
    sizes = {row["name"]: (row["parameters"], row["layer_macs"]) for row in rows}
    assert sizes["SD2"] == (865_910_724, 86_272_573_440)
    assert main(["model", "list"]) == 0
    line = next(each for each in capsys.readouterr().out.splitlines() if "sd3.5-medium" in each)
    assert "2,243,171,520    308.15  256 px" in line


def test_list_is_instant_because_it_loads_no_torch():
    program = "import sys; from rectiflow.cli.main import main; code = main(['model', 'list'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print('torch' in sys.modules, code)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False 0"


@pytest.mark.parametrize(("name", "num_rows"), [("unet", 16), ("pixart", 4)])
def test_tables_agree_with_the_paper_in_all_rows_but_for_the_known_rounding(name, num_rows, capsys):
    rows = answer(capsys, "model", "table", name)
    assert len(rows) == num_rows
    odd = [row["name"] for row in rows if row["parameters_agree"] != "yes"]
    assert odd == (["SDXL-TD4"] if name == "unet" else [])
    assert {row["gmacs_agree"] for row in rows} == {"yes"}
    assert main(["model", "table", name]) == 0
    shown = capsys.readouterr().out
    assert shown.count("  yes") == num_rows - len(odd)
    assert ("parameters rounded twice" in shown) == bool(odd)


def test_the_table_of_mmdits_tells_where_the_paper_prints_nothing(capsys):
    rows = {row["name"]: row for row in answer(capsys, "model", "table", "mmdit")}
    assert rows["mmdit-d38"]["parameters_agree"] == "yes"
    assert rows["mmdit-d15"]["paper_parameters_billions"] is None
    assert rows["mmdit-d15"]["parameters_agree"] is None


def test_an_unknown_table_names_the_nearest(capsys):
    assert main(["model", "table", "unets"]) == 2
    assert "unknown table 'unets'; did you mean unet?" in capsys.readouterr().err


def test_info_tells_the_costs_of_a_release_without_its_weights(capsys):
    facts = answer(capsys, "model", "info", "sd3.5-large")
    assert facts["parameters"] == 8_056_627_520
    assert facts["takes_pooled"] is True
    assert list(facts["pictures"]) == ["256", "512", "1024"]
    flops = [at["forward_flops"] for at in facts["pictures"].values()]
    assert flops == sorted(flops)
    assert main(["model", "info", "sd3.5-large"]) == 0
    out = capsys.readouterr().out
    assert "8,056,627,520" in out
    assert "at 1024 px" in out


def test_info_says_that_a_unet_takes_no_pooled_text(capsys):
    facts = answer(capsys, "model", "info", "unet-tiny")
    assert facts["takes_pooled"] is False
    at = facts["pictures"]["64"]
    assert at["sampling_bytes_at_least"] == 2 * facts["parameters"]
    assert at["training_bytes"] > 20 * facts["parameters"]


def test_info_of_a_table_row_is_instant_because_it_makes_no_network(capsys, monkeypatch):
    monkeypatch.setattr("rectiflow.nn.named.counts_of", lambda *_: pytest.fail("made a network"))
    facts = answer(capsys, "model", "info", "SDXL")
    assert facts["parameters"] == 2_391_824_644
    flops = [at["forward_flops"] for at in facts["pictures"].values()]
    assert flops == [401_533_829_120, 1_562_527_662_080, 6_734_985_297_920]


def test_info_of_an_unknown_name_names_the_nearest(capsys):
    assert main(["model", "info", "sd3.5-medum"]) == 2
    error = capsys.readouterr().err
    assert "no bundle or run 'sd3.5-medum'" in error
    assert "did you mean sd3.5-medium?" in error
    assert main(["model", "info", "nothing"]) == 2
    assert "see rectiflow model list" in capsys.readouterr().err
