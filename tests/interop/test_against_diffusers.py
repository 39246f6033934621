"""Folders that diffusers writes are the same function when we load them."""

import pytest
import torch

from rectiflow.conditioning import Conditioning
from rectiflow.interop.checkpoint import open_checkpoint
from rectiflow.interop.conversion import convert, plan
from tests.interop.networks import DUAL, foreign_weights, network, same, write_stability

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("shards", ["10GB", "40KB"])
@pytest.mark.parametrize(
    ("qk_norm", "dual", "layers", "heads"),
    [(None, (), 3, 2), ("rms_norm", (), 2, 3), ("rms_norm", (0, 1), 3, 3)],
)
def test_a_folder_of_diffusers_is_the_same_function_to_1e_5(
    qk_norm, dual, layers, heads, shards, tmp_path
):
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    torch.manual_seed(0)
    peer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=24,
        caption_projection_dim=16 * heads,
        pooled_projection_dim=20,
        out_channels=4,
        pos_embed_max_size=12,
        qk_norm=qk_norm,
        dual_attention_layers=dual,
    )
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    peer.save_pretrained(tmp_path, max_shard_size=shards)
    opened = open_checkpoint(tmp_path)
    assert opened.config.dual_attention == dual
    assert (opened.config.depth, opened.config.heads) == (layers, heads)
    x, t = torch.randn(3, 4, 8, 12), torch.rand(3)
    context, pooled = torch.randn(3, 7, 24), torch.randn(3, 20)
    with torch.no_grad():
        ours = opened.load_network()(x, t, Conditioning(context, pooled, (3, 4)))
        theirs = peer(x, context, pooled, 1000 * t, return_dict=False)[0]
    assert theirs.std() > 0.1
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_diffusers_reads_the_shards_that_we_write(tmp_path):
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    model = network(DUAL)
    source = open_checkpoint(write_stability(tmp_path / "m.safetensors", model))
    folder = convert(plan(source, "diffusers", tmp_path / "folder", shard_bytes=500_000))
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 3
    peer = SD3Transformer2DModel.from_pretrained(str(folder / "transformer"))
    assert same(dict(peer.state_dict()), foreign_weights(model, "diffusers"))
    assert peer.config.dual_attention_layers == [0]
    assert peer.config.sample_size == DUAL.base_side * DUAL.patch_size
