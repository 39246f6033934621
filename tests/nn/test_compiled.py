"""A compiled network is the same network; its tracing alone, which needs no C++ compiler.

It runs in a process of its own: the checks of shapes that tests add to every call cannot be traced.
"""

import json
import subprocess
import sys

import pytest

WHOLE = """
import json, torch
from tests.nn.test_mmdit import awake, inputs, relative

network = awake()
compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
errors = {}
for is_bf16 in (False, True):
    found = []
    for run in (network, compiled):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            velocity = run(*inputs())
        gradients = torch.autograd.grad(velocity.float().square().mean(), [*network.parameters()])
        found.append((velocity, torch.cat([g.flatten() for g in gradients])))
    pairs = [relative(b, a) for a, b in zip(*found, strict=True)]
    errors["bf16" if is_bf16 else "fp32"] = pairs
print(json.dumps(errors))
"""

BY_BLOCK = """
import dataclasses, json, torch
from rectiflow.nn.regions import blocks_of, compile_blocks, uncompiled
from tests.nn.test_mmdit import awake, inputs, relative

errors, deeper = {}, dataclasses.replace(awake().config, depth=4)
by_block, names = awake(deeper), list(awake(deeper).state_dict())
seen = []
by_block.blocks[-1].image.out.register_forward_hook(lambda *_: seen.append(0))
compile_blocks(blocks_of(by_block), backend="aot_eager")
torch._dynamo.utils.counters.clear()
found = []
for run in (awake(deeper), by_block):
    velocity = run(*inputs())
    gradients = torch.autograd.grad(velocity.square().mean(), [*run.parameters()])
    found.append((velocity, torch.cat([g.flatten() for g in gradients])))
errors["by block"] = [relative(b, a) for a, b in zip(*found, strict=True)]
errors["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
seen.clear()
with torch.no_grad(), uncompiled(by_block):
    by_block(*inputs())
errors["seen inside"] = len(seen)
errors["same names"] = list(by_block.state_dict()) == names

from rectiflow.nn.attention import attention
from rectiflow.nn.kernels import LinearOfFew

layer = LinearOfFew(8, 16)
heads = [torch.randn(2, 3, n, 16).bfloat16().requires_grad_() for n in (25, 62, 62)]
cases = {attention: heads, layer.__call__: [torch.randn(2, 8, requires_grad=True)]}
errors["same bits"] = []
for form, args in cases.items():
    leaves = args if form is attention else [*args, *layer.parameters()]
    outs = [run(*args) for run in (form, torch.compile(form, backend="aot_eager", fullgraph=True))]
    grads = [torch.autograd.grad(out.square().sum(), leaves) for out in outs]
    pairs = [outs, *zip(*grads, strict=True)]
    errors["same bits"].append(all(torch.equal(a, b) for a, b in pairs))
print(json.dumps(errors))
"""


def told_by(program):
    """Relative differences of velocity and gradients, compiled against eager, and facts."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def errors():
    return told_by(BY_BLOCK)


@pytest.mark.slow
def test_a_compiled_network_is_one_graph_with_the_same_velocity_and_gradients():
    errors = told_by(WHOLE)
    assert max(errors["fp32"]) < 1e-5
    assert 0 < max(errors["bf16"]) < 0.03  # logits are rounded in other places


def test_blocks_compiled_one_by_one_share_graphs_and_are_the_same_network(errors):
    assert max(errors["by block"]) < 1e-5
    assert errors["graphs"] == 2  # the last block has one of its own
    assert errors["same names"]


def test_compiled_blocks_can_be_looked_into(errors):
    assert errors["seen inside"] == 1


def test_attention_and_modulations_are_taken_as_they_are(errors):
    assert errors["same bits"] == [True, True]
