"""Kernels of compiled programs: small ones written by hand, whose traffic and arithmetic are counted by hand."""

import re

import pytest

from cnnjax.inspect import program

GPU = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%rows_of_all (all: u8[50000,32,32,3], index: s32[100,1]) -> bf16[100,32,32,3] {
  %all = u8[50000,32,32,3]{3,2,1,0} parameter(0)
  %index = s32[100,1]{1,0} parameter(1)
  %taken = u8[100,32,32,3]{3,2,1,0} gather(%all, %index), offset_dims={1,2,3}
  ROOT %converted = bf16[100,32,32,3]{3,2,1,0} convert(%taken)
}

%product (x: bf16[64,32], y: bf16[32,16]) -> f32[64,16] {
  %x = bf16[64,32]{1,0} parameter(0)
  %y = bf16[32,16]{1,0} parameter(1)
  ROOT %dot = f32[64,16]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%place (all_x: bf16[100,32,32,16]) -> bf16[1,16] {
  %all_x = bf16[100,32,32,16]{3,2,1,0} parameter(0)
  %rows_x = bf16[102400,16]{1,0} bitcast(%all_x)
  ROOT %one = bf16[1,16]{1,0} slice(%rows_x), slice={[0:1], [0:16]}
}

%body (s: (s32[], f32[256])) -> (s32[], f32[256]) {
  %s = (s32[], f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[256]{0} get-tuple-element(%s), index=1
  %w = f32[256]{0} negate(%v), metadata={op_name="jit(step)/while/body/neg"}
  ROOT %t = (s32[], f32[256]{0}) tuple(%i, %w)
}

ENTRY %main (set: u8[50000,32,32,3], rows: s32[100,1], kernel: bf16[16,3,3,3], x: bf16[64,32], y: bf16[32,16], z: f32[256]) -> f32[64,16] {
  %set = u8[50000,32,32,3]{3,2,1,0} parameter(0), metadata={op_name="arrays['image']"}
  %rows = s32[100,1]{1,0} parameter(1)
  %kernel = bf16[16,3,3,3]{3,2,1,0} parameter(2)
  %batch = bf16[100,32,32,3]{3,2,1,0} fusion(%set, %rows), kind=kLoop, calls=%rows_of_all, metadata={op_name="jit(step)/gather"}
  %conv = (bf16[100,32,32,16]{3,2,1,0}, u8[4096]{0}) custom-call(%batch, %kernel), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(Net)/block1/conv1/conv_general_dilated"}
  %out = bf16[100,32,32,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %centre = bf16[1,16]{1,0} fusion(%out), kind=kLoop, calls=%place, metadata={op_name="jit(step)/slice"}
  %back = (bf16[16,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%batch, %out), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter", metadata={op_name="jit(step)/transpose(jvp(Net))/block1/conv1/conv_general_dilated"}
  %x = bf16[64,32]{1,0} parameter(3)
  %y = bf16[32,16]{1,0} parameter(4)
  %z = f32[256]{0} parameter(5)
  %reduced = f32[256]{0} all-reduce(%z), replica_groups={{0,1}}, to_apply=%add
  %zero = s32[] constant(0)
  %start = (s32[], f32[256]{0}) tuple(%zero, %reduced)
  %loop = (s32[], f32[256]{0}) while(%start), condition=%never, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %result = f32[64,16]{1,0} fusion(%x, %y), kind=kCustom, calls=%product, metadata={op_name="jit(step)/jvp(Net)/head/dot_general"}
}
"""
CONV = 2 * 3 * 16 * 100 * (32 * 3 - 2) ** 2  # of 3 taps along an axis one meets padding at each end


@pytest.fixture(scope="module")
def kernels():
    return {kernel.name: kernel for kernel in program.kernels(GPU)}


def test_kernels_are_what_a_device_starts(kernels):
    assert list(kernels) == ["batch", "conv", "centre", "back", "reduced", "result", "w"]
    assert {name: kernel.times for name, kernel in kernels.items() if kernel.times > 1} == {"w": 7}


def test_traffic_counts_what_is_taken_and_no_workspace(kernels):
    images, outputs, weights = 100 * 32 * 32 * 3, 2 * 100 * 32 * 32 * 16, 2 * 16 * 3 * 3 * 3
    assert kernels["batch"].bytes == images + 4 * 100 + 2 * images  # rows of the set, not all of it
    assert kernels["conv"].bytes == kernels["back"].bytes == 2 * images + weights + outputs
    assert kernels["centre"].bytes == 2 * 2 * 16  # one place, whatever it is called
    assert kernels["w"].bytes == 2 * 4 * 256
    assert kernels["result"].bytes == 2 * (64 * 32 + 32 * 16) + 4 * 64 * 16


def test_arithmetic_and_its_precision(kernels):
    assert kernels["conv"].flops == kernels["back"].flops == CONV
    assert kernels["result"].flops == 2 * 64 * 32 * 16
    assert kernels["result"].products == kernels["conv"].products == {"bf16"}
    assert kernels["batch"].flops == 0 and not kernels["batch"].products


def test_the_roofline_is_the_longer_of_both(kernels):
    loop, conv = kernels["w"], kernels["conv"]
    assert loop.seconds(bandwidth=1e3, half=1.0, single=1.0) == pytest.approx(7 * 2.048)
    assert conv.seconds(bandwidth=1e30, half=1e9, single=1.0) == pytest.approx(CONV / 1e9)


def test_exchanges():
    assert program.collectives(GPU) == {"all-reduce": (1, 1024)}


@pytest.mark.parametrize(
    ("label", "layer"),
    [
        ("jit(steps)/jvp(Net)/block1/conv1/conv_general_dilated", "Net/block1/conv1"),
        ("jit(steps)/transpose(jvp(Net))/block1/jit(_where)/select_n", "Net/block1 backward"),
        ("jit(steps)/jvp(LeNet5)/c1/branch_0_fun/conv_general_dilated", "LeNet5/c1"),
        ("jit(steps)/while/body/mul", "mul"),
        ("", ""),
    ],
)
def test_layers_by_name(label, layer):
    assert program.layer_of(label) == layer


TPU = """HloModule jit_step

ENTRY %main (x: bf16[100,31,24], w: f32[512,512]) -> bf16[100,31,24] {
  %x = bf16[100,31,24]{2,1,0:T(8,128)(2,1)} parameter(0)
  %w = f32[512,512]{1,0:T(8,128)} parameter(1)
  %copy-start = (f32[512,512]{1,0:T(8,128)S(1)}, f32[512,512]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%w)
  %slice-start = ((f32[512,512]{1,0:T(8,128)}), f32[128,512]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%w), slice={[0:128], [0:512]}
  %copy-done = f32[512,512]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %inner = f32[512,512]{1,0:T(8,128)S(1)} convolution(%copy-done, %copy-done), dim_labels=bf_io->bf
  ROOT %y = bf16[100,31,24]{2,1,0:T(8,128)(2,1)} negate(%x)
}
"""


def test_a_tpu_pads_to_tiles_and_holds_values_on_the_chip():
    kernels = {kernel.name: kernel for kernel in program.kernels(TPU, tpu=True)}
    assert kernels["y"].bytes == 2 * 2 * 100 * 32 * 128
    assert kernels["copy-start"].bytes == 4 * 512 * 512  # read; what is written stays on the chip
    assert kernels["slice-start"].bytes == 4 * 128 * 512
    assert kernels["inner"].bytes == 0 and kernels["inner"].flops == 2 * 512**3
    assert kernels["inner"].products == {"f32"}


@pytest.mark.parametrize(
    ("attributes", "sizes", "taps"),
    [
        (
            "window={size=3 stride=2 pad=0_1}, dim_labels=b0f_0io->b0f",
            (8, 3, 4),
            11,
        ),  # the last meets the padding
        (
            "window={size=2 pad=1_1 lhs_dilate=2}, dim_labels=b0f_0io->b0f",
            (3, 2, 6),
            6,
        ),  # every second is a zero
        ("window={size=2 rhs_dilate=3}, dim_labels=b0f_0io->b0f", (5, 2, 2), 4),
    ],
)
def test_operations_of_strides_and_dilations(attributes, sizes, taps):
    before, window, after = sizes
    text = (
        re.sub(r"ENTRY.*\}\n", "", TPU, flags=re.DOTALL)
        + f"""ENTRY %main (x: f32[2,{before},5], k: f32[{window},5,7]) -> f32[2,{after},7] {{
  %x = f32[2,{before},5]{{2,1,0}} parameter(0)
  %k = f32[{window},5,7]{{2,1,0}} parameter(1)
  ROOT %y = f32[2,{after},7]{{2,1,0}} convolution(%x, %k), {attributes}
}}
"""
    )
    (kernel,) = program.kernels(text)
    assert kernel.flops == 2 * 2 * 5 * 7 * taps
