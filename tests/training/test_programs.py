"""The training call is one program for any device: nothing in it asks the host."""

import re

import jax
import pytest

from tests.support.programs import published, update_and_inputs

HOST = r"callback|infeed|outfeed|\bsend\b|\brecv\b|host|copy-start"


def test_compiled_training_call_never_leaves_the_device():
    config, policy = published("can", 4)
    config.batch_size, config.critic.width = 64, 64  # the same program, smaller
    program, inputs = update_and_inputs(config, policy)
    text = program.lower(*inputs).compile().as_text()
    assert "while(" in text and "dot" in text  # it is the training call
    text = re.sub(r"metadata=\{[^}]*\}", "", text)
    assert not re.findall(HOST, text)


@pytest.mark.parametrize(
    "precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_published_training_call_lowers_for_cuda(precision):
    config, policy = published("square", 8)
    config.precision = precision
    program, inputs = update_and_inputs(config, policy)
    exported = jax.export.export(program, platforms=["cuda"])(*inputs)
    assert exported.platforms == ("cuda",)
    text = exported.mlir_module()
    assert "stablehlo.while" in text and "stablehlo.dot_general" in text
    assert not re.findall(HOST, text)
