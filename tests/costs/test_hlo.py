"""FLOPs, traffic and trip counts read off compiled programs, against what is known by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ieat_jax.costs.flops import compiled_flops, traced_flops
from ieat_jax.costs.hlo import HloError, Module, arrays_of
from ieat_jax.costs.traffic import axes_of, collectives, first_group, hbm_bytes

SIZE, LAYERS = 32, 5


def scanned(x, layers):
    return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0])


def test_a_loops_body_counts_as_often_as_it_runs():
    x, layers = jnp.ones((8, SIZE)), jnp.ones((LAYERS, SIZE, SIZE))
    forward = 2 * 8 * SIZE * SIZE * LAYERS
    step = jax.value_and_grad(scanned, argnums=(0, 1))
    assert traced_flops(scanned, x, layers) == forward
    assert traced_flops(step, x, layers) == 3 * forward
    module = Module(jax.jit(step).lower(x, layers).compile().as_text())
    assert compiled_flops(module) == 3 * forward


def test_what_is_recomputed_is_counted():
    def loss(x, layers):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w) @ w, None), prevent_cse=False)
        return jnp.sum(jax.lax.scan(body, x, layers)[0])

    x, layers = jnp.ones((8, SIZE)), jnp.ones((LAYERS, SIZE, SIZE))
    one = 2 * 8 * SIZE * SIZE * LAYERS
    # Forward 2, backward 4; of the two products one is needed again.
    assert (
        compiled_flops(Module(jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, layers).compile().as_text())) == 7 * one
    )


def test_collectives_have_kind_axes_and_size():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    weights = jax.device_put(
        np.ones((LAYERS, SIZE, SIZE), np.float32), NamedSharding(mesh, PartitionSpec(None, "model"))
    )
    x = jax.device_put(np.ones((8, SIZE), np.float32), NamedSharding(mesh, PartitionSpec("data")))

    def loss(layers, x):
        def body(x, w):
            return jnp.tanh(x @ jax.sharding.reshard(w, PartitionSpec(None, None))), None

        return jnp.sum(jax.lax.scan(body, x, layers)[0] ** 2)

    with jax.set_mesh(mesh):
        found = collectives(Module(jax.jit(loss).lower(weights, x).compile().as_text()), mesh.shape)
    gathers = [one for one in found if one.kind == "all-gather"]
    assert [(one.axes, one.group, one.bytes, one.times) for one in gathers] == [
        (("model",), 4, SIZE * SIZE * 4, LAYERS)
    ]
    assert gathers[0].sent == SIZE * SIZE * 4 * LAYERS * 3 / 4
    assert {one.axes for one in found if one.kind == "all-reduce"} == {("data",)}


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", [0, 4]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [0, 4]),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", [0, 4]),
        ("source_target_pairs={{0,4},{4,0}}", [0, 4]),
    ],
)
def test_groups_are_read_in_every_form(text, group):
    assert first_group(f"(%x), {text}, channel_id=1") == group
    assert axes_of(group, {"data": 2, "model": 4}) == (("data",) if group == [0, 4] else ("model",))


def test_groups_in_another_form_are_refused():
    with pytest.raises(HloError, match="not understood"):
        first_group("(%x), replica_groups=mesh['a'=8] {'a':(2)4}")


TPU = """HloModule jit_step, is_scheduled=true

%fused (p.0: bf16[8,384,64]) -> bf16[1,384,64] {
  %p.0 = bf16[8,384,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i.0 = s32[] constant(3)
  ROOT %slice.0 = bf16[1,384,64]{2,1,0:T(8,128)(2,1)S(1)} dynamic-slice(%p.0, %i.0, %i.0, %i.0)
}

%start (p.1: bf16[24,64]) -> (bf16[24,64], bf16[384,64]) {
  %p.1 = bf16[24,64]{1,0} parameter(0)
  %gather.1 = bf16[384,64]{1,0} all-gather(%p.1), channel_id=7, replica_groups=[1,16]<=[16], dimensions={0}
  ROOT %call.1 = (bf16[24,64]{1,0}, bf16[384,64]{1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%done (p.2: bf16[24,64]) -> bf16[384,64] {
  %p.2 = bf16[24,64]{1,0} parameter(0)
  %gather.2 = bf16[384,64]{1,0} all-gather(%p.2), channel_id=7, replica_groups=[1,16]<=[16], dimensions={0}
  ROOT %call.2 = bf16[384,64]{1,0} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}

%body (state: (s32[], bf16[8,384,64])) -> (s32[], bf16[8,384,64]) {
  %state = (s32[]{:T(128)}, bf16[8,384,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  %all = bf16[8,384,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %one = bf16[1,384,64]{2,1,0:T(8,128)(2,1)S(1)} fusion(%all), kind=kLoop, calls=%fused
  %left = bf16[4,150,384,1]{2,1,0,3:S(1)} bitcast(%all)
  %right = bf16[384,6,64,1]{2,1,0,3:S(1)} bitcast(%all)
  %dot = bf16[4,150,6,64]{3,1,2,0:S(1)} convolution(%left, %right), window={size=1x6 pad=0_0x5_5}, dim_labels=LABELS
  ROOT %next = (s32[]{:T(128)}, bf16[8,384,64]{2,1,0:T(8,128)(2,1)}) tuple(%count, %all)
}

%condition (state.1: (s32[], bf16[8,384,64])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[8,384,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(8)
  %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count.1, %limit), direction=LT
}

ENTRY %main (x: bf16[24,64], y: bf16[8,384,64]) -> bf16[8,384,64] {
  %x = bf16[24,64]{1,0} parameter(0)
  %y = bf16[8,384,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %begin = (bf16[24,64]{1,0}, bf16[384,64]{1,0}) fusion(%x), kind=kCustom, calls=%start
  %end = bf16[384,64]{1,0} fusion(%x), kind=kCustom, calls=%done
  %init = (s32[]{:T(128)}, bf16[8,384,64]{2,1,0:T(8,128)(2,1)}) tuple(%zero, %y)
  %loop = (s32[]{:T(128)}, bf16[8,384,64]{2,1,0:T(8,128)(2,1)}) while(%init), condition=%condition, body=%body
  ROOT %result = bf16[8,384,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
""".replace("LABELS", "0bf1_i1o0->0b1f")


def test_a_tpus_loops_and_collectives():
    module = Module(TPU)
    assert module.entry == "main"
    assert {name: times for _, name, times in module.runs()} == {"main": 1, "body": 8}
    found = collectives(module, {"fsdp": 16})
    # One collective although two fusions show it.
    assert [(one.kind, one.bytes, one.times, one.asynchronous) for one in found] == [
        ("all-gather", 384 * 64 * 2, 1, True)
    ]


def test_a_slice_into_on_chip_memory_reads_the_slice_alone():
    slice_, gathered = 384 * 64 * 2, 384 * 64 * 2 + 24 * 64 * 2
    moved = hbm_bytes(Module(TPU))
    assert 8 * slice_ <= moved <= 8 * slice_ + 2 * gathered  # y is 8 slices: all of it once, not 8 times


def test_a_tpus_matrix_product_is_a_convolution_mostly_of_padding():
    """[4, 150, 384] x [384, 6, 64]: the 6 heads are a window of 6, five of whose taps always lie in the padding."""
    assert compiled_flops(Module(TPU)) == 8 * 2 * 4 * 150 * 384 * 6 * 64


def test_a_loop_that_does_not_count_is_refused():
    with pytest.raises(HloError, match="not `counter < constant`"):
        list(Module(TPU.replace("direction=LT", "direction=NE")).runs())


def test_a_conditional_is_refused():
    text = TPU.replace(
        "  %zero = s32[]", "  %either = s32[] conditional(%x), branch_computations={%body, %start}\n  %zero = s32[]"
    )
    with pytest.raises(HloError, match="how often each branch"):
        list(Module(text).runs())


def test_types_are_read_with_their_memory():
    hbm, vmem = arrays_of("(bf16[2,3]{1,0:T(8,128)(2,1)}, f32[4]{0:T(128)S(1)})")
    assert (hbm.bytes, hbm.in_hbm) == (12, True)
    assert (vmem.bytes, vmem.in_hbm) == (16, False)


# As XLA:GPU writes a loop over gathered parameters, with less in it; TARGET and MASK are the attention kernel's.
GPU = (Path(__file__).parent / "gpu_program.hlo").read_text()


def gpu_module(target="Softmax", mask="NO_MASK"):
    return Module(GPU.replace("TARGET", target).replace("MASK", mask, 1))


def test_a_gpus_products_and_attention_are_calls():
    product, scores = 2 * 96 * 64 * 32, 2 * 2 * 4 * 96 * 96 * 16
    assert compiled_flops(gpu_module()) == 5 * product + 2 * scores
    assert compiled_flops(gpu_module(mask="CAUSAL")) == 5 * product + 2 * scores / 2
    assert compiled_flops(gpu_module("ScaleBiasSoftmaxBackward")) == 5 * product + 5 * scores


def test_a_gpus_collectives_carry_their_operands():
    found = collectives(gpu_module(), {"replica": 1, "fsdp": 8})
    assert [(one.kind, one.axes, one.bytes, one.times, one.asynchronous) for one in found] == [
        ("all-gather", ("fsdp",), 2 * 64 * 32 * 2, 5, True),  # two parameters in one
        ("reduce-scatter", ("fsdp",), 96 * 32 * 2, 5, False),
    ]


def test_room_to_work_in_is_not_traffic():
    gather, product, scatter = 2 * (64 + 8) * 32, 96 * 64 + 64 * 32 + 96 * 32, 96 * 32 + 12 * 32
    attention = 2 * 96 * (4 + 2 + 2 + 4) * 16
    assert hbm_bytes(gpu_module()) == 2 * (5 * (gather + product + scatter) + attention)


def test_calls_that_do_not_say_what_they_compute_are_refused():
    for name in ("lhs_contracting_dimensions", "intermediate_tensor_shape"):
        with pytest.raises(HloError, match="does not say"):
            compiled_flops(Module(GPU.replace(name, "other")))
