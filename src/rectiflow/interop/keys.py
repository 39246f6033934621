"""Names of an MM-DiT's tensors in the original single file and in diffusers, beside ours.

Both are read off published files. What differs beyond names: diffusers keeps queries, keys and
values apart, and puts scale before shift in the final modulation and in that of the text of the
last block; ours and the original put shift first. The text of the last block has queries and their
norm in every layout, though nothing uses them, and no output.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rectiflow.interop.forms import Form, Piece
from rectiflow.nn.mmdit import MMDiTConfig

Foreign = Literal["stability", "diffusers"]


@dataclass(frozen=True)
class _Attention:
    qkv: tuple[str, ...]
    norms: tuple[str, str]
    out: str


@dataclass(frozen=True)
class _Stream:
    modulation: str
    attention: _Attention
    expand: str
    project: str


@dataclass(frozen=True)
class _Layout:
    """Names of the network's parts; `block` and the streams' names are joined by a dot."""

    patch: str
    table: str
    context: str
    time: tuple[str, str]
    pooled: tuple[str, str]
    final_modulation: str
    final: str
    block: str
    streams: dict[str, _Stream]
    own_attention: _Attention
    has_scale_first: bool


def _original_stream(name: str) -> _Stream:
    attention = _original_attention(f"{name}.attn")
    return _Stream(f"{name}.adaLN_modulation.1", attention, f"{name}.mlp.fc1", f"{name}.mlp.fc2")


def _original_attention(name: str) -> _Attention:
    return _Attention((f"{name}.qkv",), (f"{name}.ln_q", f"{name}.ln_k"), f"{name}.proj")


def _diffusers_attention(name: str) -> _Attention:
    qkv = (f"{name}.to_q", f"{name}.to_k", f"{name}.to_v")
    return _Attention(qkv, (f"{name}.norm_q", f"{name}.norm_k"), f"{name}.to_out.0")


_LAYOUTS: dict[str, _Layout] = {
    "stability": _Layout(
        patch="x_embedder.proj",
        table="pos_embed",
        context="context_embedder",
        time=("t_embedder.mlp.0", "t_embedder.mlp.2"),
        pooled=("y_embedder.mlp.0", "y_embedder.mlp.2"),
        final_modulation="final_layer.adaLN_modulation.1",
        final="final_layer.linear",
        block="joint_blocks",
        streams={
            "image": _original_stream("x_block"),
            "context": _original_stream("context_block"),
        },
        own_attention=_original_attention("x_block.attn2"),
        has_scale_first=False,
    ),
    "diffusers": _Layout(
        patch="pos_embed.proj",
        table="pos_embed.pos_embed",
        context="context_embedder",
        time=(
            "time_text_embed.timestep_embedder.linear_1",
            "time_text_embed.timestep_embedder.linear_2",
        ),
        pooled=(
            "time_text_embed.text_embedder.linear_1",
            "time_text_embed.text_embedder.linear_2",
        ),
        final_modulation="norm_out.linear",
        final="proj_out",
        block="transformer_blocks",
        streams={
            "image": _Stream(
                "norm1.linear", _diffusers_attention("attn"), "ff.net.0.proj", "ff.net.2"
            ),
            "context": _Stream(
                "norm1_context.linear",
                _Attention(
                    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
                    ("attn.norm_added_q", "attn.norm_added_k"),
                    "attn.to_add_out",
                ),
                "ff_context.net.0.proj",
                "ff_context.net.2",
            ),
        },
        own_attention=_diffusers_attention("attn2"),
        has_scale_first=True,
    ),
}


@dataclass(frozen=True)
class Landmarks:
    """Names from whose presence and shapes a configuration is read.

    Args:
        patch: Weight of the convolution that makes the image tokens.
        table: The positions.
        context: Weight of the embedding of the text tokens.
        pooled: Weight of the first layer of the embedding of pooled text.
        block: Begins the names of block i, followed by ".i.".
        norm: Within a block, the scale of the image's normalised keys, where they are.
        own_attention: Within a block, the output of an image's attention to itself, where it is.
    """

    patch: str
    table: str
    context: str
    pooled: str
    block: str
    norm: str
    own_attention: str


def landmarks(layout: Foreign) -> Landmarks:
    """The names to look for in one layout."""
    names = _LAYOUTS[layout]
    return Landmarks(
        patch=f"{names.patch}.weight",
        table=names.table,
        context=f"{names.context}.weight",
        pooled=f"{names.pooled[0]}.weight",
        block=names.block,
        norm=f"{names.streams['image'].attention.norms[1]}.weight",
        own_attention=f"{names.own_attention.out}.weight",
    )


def pieces(layout: Foreign, config: MMDiTConfig) -> list[Piece]:
    """How a network's tensors are held in a layout: all of ours, and all of theirs.

    Raises:
        ValueError: If the layout has no names for such a network.
    """
    if config.num_weight_sets != 2:
        raise ValueError(
            f"the {layout} layout has two sets of weights, image and text; this network has "
            f"{config.num_weight_sets} (num_weight_sets)"
        )
    names = _LAYOUTS[layout]
    swap = Form.SWAP if names.has_scale_first else Form.ROWS
    result = [
        Piece("patch_embedding.weight", (f"{names.patch}.weight",), Form.CONV),
        Piece("patch_embedding.bias", (f"{names.patch}.bias",)),
        Piece("positions.table", (names.table,), Form.TABLE),
        *_linear("context_embedding", names.context),
        *_linear("time_embedding.expand", names.time[0]),
        *_linear("time_embedding.project", names.time[1]),
        *_linear("pooled_embedding.expand", names.pooled[0]),
        *_linear("pooled_embedding.project", names.pooled[1]),
        *_linear("final.modulation.project", names.final_modulation, form=swap),
        *_linear("final.project", names.final),
    ]
    for i in range(config.depth):
        for kind in ("context", "image"):
            is_last = kind == "context" and i == config.depth - 1
            ours, theirs = f"blocks.{i}.{kind}", f"{names.block}.{i}."
            result += _stream(ours, theirs, names.streams[kind], config, swap if is_last else None)
        if i in config.dual_attention:
            ours, theirs = f"blocks.{i}.image", f"{names.block}.{i}."
            result += _attention(ours, theirs, names.own_attention, config, number="2")
    return result


def _stream(
    ours: str, theirs: str, names: _Stream, config: MMDiTConfig, last_form: Form | None
) -> Iterable[Piece]:
    """One stream of one block; `last_form` is of the modulation of a stream without output."""
    is_last = last_form is not None
    form = last_form or Form.ROWS
    yield from _linear(f"{ours}.modulation.project", theirs + names.modulation, form=form)
    yield from _attention(ours, theirs, names.attention, config, has_output=not is_last)
    if not is_last:
        yield from _linear(f"{ours}.expand", theirs + names.expand)
        yield from _linear(f"{ours}.project", theirs + names.project)


def _attention(
    ours: str,
    theirs: str,
    names: _Attention,
    config: MMDiTConfig,
    *,
    number: str = "",
    has_output: bool = True,
) -> Iterable[Piece]:
    yield from _linear(f"{ours}.qkv{number}", *(theirs + name for name in names.qkv))
    if config.qk_norm:
        scales = tuple(f"{theirs}{name}.weight" for name in names.norms)
        yield Piece(f"{ours}.qk_norm{number}.scale", scales, Form.STACK)
    if has_output:
        yield from _linear(f"{ours}.out{number}", theirs + names.out)


def _linear(ours: str, *theirs: str, form: Form = Form.ROWS) -> Iterable[Piece]:
    for kind in ("weight", "bias"):
        yield Piece(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), form)
