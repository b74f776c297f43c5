"""What the machine code of hot kernels must hold: 16-byte loads and stores, and room for enough warps."""

from __future__ import annotations

import pytest
from cubins import QUICK, nvdisasm

from gpuprop.backend.occupancy import occupancy

MAXIMUM = "conv1d_relu_max.cu"
SEQUENCE = (
    "recurrent_sequence.cu"  # eight packs of weights on their way a thread, and four while they are held
)
CLUSTER = "recurrent_cluster.cu"  # the same; its kernels are a trap where there are no clusters
FUSED = "softmax_cross_entropy_fused.cu"
RESIDUAL = "residual_layer_norm.cu"
# kernel -> 16-byte loads and stores of global memory at least, threads a block, warps a processor at least.
# A memory of 4.3 TB/s and 0.7 µs wants 23 KB on their way to each of 132 processors: 32 warps with twice 16
# bytes a lane, or fewer that load more at once.
HOT = {
    ("activation.cu", "activation_forward<float, float, 4, 2>"): (2, 1, 256, 48),
    ("activation.cu", "activation_forward<__nv_bfloat16, float, 8, 3>"): (2, 1, 256, 32),
    ("activation.cu", "activation_backward<float, float, 4, 1>"): (3, 1, 256, 32),
    ("activation.cu", "activation_backward<__nv_bfloat16, float, 8, 3>"): (3, 1, 256, 32),
    ("activation.cu", "activation_dropout<float, float, 1>"): (4, 4, 256, 64),
    ("activation.cu", "activation_dropout<__nv_bfloat16, float, 2>"): (2, 4, 256, 48),
    ("adam.cu", "adam<float, float>"): (4, 3, 256, 40),
    ("adam.cu", "gradient_norm<float, float>"): (1, 0, 256, 64),
    ("conv1d_depthwise.cu", "conv1d_depthwise_forward<float, float, 4>"): (4, 4, 128, 24),
    ("conv1d_depthwise.cu", "conv1d_depthwise_forward<__nv_bfloat16, float, 4>"): (4, 4, 128, 16),
    ("conv1d_depthwise.cu", "conv1d_depthwise_backward<float, float, 4>"): (4, 2, 128, 20),
    ("conv1d_depthwise.cu", "conv1d_depthwise_backward<__nv_bfloat16, float, 4>"): (4, 2, 128, 12),
    ("conv1d.cu", "conv1d_pad<float, 4>"): (1, 1, 256, 48),
    ("conv1d_relu_max_products.cu", "conv1d_relu_max_largest<float, float, 4>"): (1, 0, 256, 40),
    ("dropout.cu", "dropout<float>"): (4, 4, 256, 48),
    ("dropout.cu", "dropout_rows<__half>"): (2, 2, 256, 48),
    (MAXIMUM, "conv1d_relu_max_forward<float, float>"): (2, 0, 256, 16),
    (MAXIMUM, "conv1d_relu_max_forward<__nv_bfloat16, float>"): (2, 0, 256, 16),
    (MAXIMUM, "conv1d_relu_max_backward_weight<float, float>"): (4, 0, 256, 24),
    (MAXIMUM, "conv1d_relu_max_backward_input<__nv_bfloat16, float>"): (1, 1, 256, 32),
    ("embedding.cu", "embedding_forward<float, int, 4>"): (1, 1, 256, 64),
    ("embedding.cu", "embedding_backward<float, float, 4>"): (2, 1, 256, 64),
    ("embedding.cu", "embedding_backward<__nv_bfloat16, float, 8>"): (2, 1, 256, 48),
    ("layer_norm.cu", "layer_norm_forward_warp<float, float, 4>"): (12, 4, 256, 32),
    ("layer_norm.cu", "layer_norm_forward_warp<__nv_bfloat16, float, 2>"): (6, 2, 256, 40),
    ("layer_norm.cu", "layer_norm_backward_warp<float, float, 4>"): (12, 4, 256, 16),
    ("layer_norm.cu", "layer_norm_backward_warp<__nv_bfloat16, float, 2>"): (6, 2, 256, 16),
    (SEQUENCE, "gru_sequence_forward<float, float, 4>"): (12, 0, 384, 12),
    (SEQUENCE, "gru_sequence_backward<float, float, 4>"): (12, 0, 384, 12),
    (SEQUENCE, "lstm_sequence_forward<float, float, 4>"): (12, 0, 384, 12),
    (SEQUENCE, "lstm_sequence_backward<__nv_bfloat16, float, 4>"): (12, 0, 384, 12),
    (CLUSTER, "gru_cluster_forward<__nv_bfloat16, float>"): (12, 0, 256, 8),
    (CLUSTER, "gru_cluster_backward<float, float>"): (12, 0, 256, 8),
    (CLUSTER, "lstm_cluster_forward<float, float>"): (12, 0, 256, 8),
    (CLUSTER, "lstm_cluster_backward<__half, float>"): (12, 0, 256, 8),
    ("pooling.cu", "max_over_time_forward<float, float, 4>"): (1, 0, 256, 40),
    ("pooling.cu", "mean_over_time_forward<float, float, 4>"): (1, 0, 256, 40),
    ("pooling.cu", "mean_over_time_backward<__nv_bfloat16, float, 8>"): (1, 1, 256, 48),
    (RESIDUAL, "residual_layer_norm_forward_warp<float, float, 4>"): (16, 8, 256, 32),
    (RESIDUAL, "residual_layer_norm_forward_warp<__nv_bfloat16, float, 2>"): (8, 4, 256, 32),
    (RESIDUAL, "residual_layer_norm_backward_warp<float, float, 4>"): (16, 8, 256, 16),
    (RESIDUAL, "residual_layer_norm_backward_warp<__nv_bfloat16, float, 2>"): (8, 4, 256, 16),
    ("sparse_adam.cu", "sparse_adam<float, 4>"): (8, 3, 256, 32),
    ("sparse_adam.cu", "sparse_adam_finish<float, 4>"): (6, 3, 256, 32),
    ("sparse_adam.cu", "sparse_norm<float, 4>"): (5, 0, 256, 40),
    ("sparse_adam.cu", "sparse_norm_finish<float, 4>"): (3, 0, 256, 40),
    (FUSED, "softmax_cross_entropy_scale<__half, float>"): (1, 1, 256, 48),
    (FUSED, "softmax_cross_entropy_slab<float, float>"): (1, 1, 128, 40),
    (FUSED, "softmax_cross_entropy_row<float, float, 32>"): (4, 1, 256, 32),  # four packs at a time
    (FUSED, "softmax_cross_entropy_row<__nv_bfloat16, float, 256>"): (4, 1, 256, 32),
    (FUSED, "softmax_cross_entropy_row<float, float, 1024>"): (4, 1, 1024, 32),
    (FUSED, "softmax_cross_entropy_row<__nv_bfloat16, float, 1024>"): (4, 1, 1024, 32),
}


@pytest.mark.parametrize("arch", QUICK)
@pytest.mark.parametrize("kernel", HOT, ids=lambda kernel: kernel[1])
def test_16_bytes_at_a_time(kernel, arch, cubins):
    if nvdisasm() is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    file, name = kernel
    wide = cubins.instructions(file, arch)[name]
    if file == CLUSTER and arch == "sm_80":
        assert wide["BPT"]  # not empty: results would be whatever was in memory
        return
    loads, stores, *_ = HOT[kernel]
    assert wide["LDG"] >= loads
    assert wide["STG"] >= stores


@pytest.mark.parametrize("arch", QUICK)
def test_a_convolution_on_tensor_cores(arch, cubins):
    """Four by four products for each half of a step, operands four matrices at a time, copies and stores of
    16 bytes."""
    if nvdisasm() is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    for name, found in cubins.instructions("conv1d_tensor_cores.cu", arch).items():
        one_by_one = name.endswith("<float, true>")  # weights that no instruction turns
        assert found["HMMA"] == 32, name
        assert found["LDSM"] == (8 if one_by_one else 12), name
        assert found["LDGSTS"] >= 10, name
        assert found["STG"] >= 1, name


@pytest.mark.parametrize("arch", QUICK)
def test_attention_on_tensor_cores(arch, cubins):
    """Two products forward, and five backward, of 16 queries and 32 keys, operands four matrices at a time,
    copies and stores of 16 bytes."""
    if nvdisasm() is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    for name, found in cubins.instructions("attention_tensor_cores.cu", arch).items():
        second, backward = 32 if name.endswith("128>") else 16, "backward" in name
        assert found["HMMA"] >= second + (12 if backward else 4), name  # e, and da and a task
        assert found["HMMA"] <= 2 * found["LDSM"], name
        assert found["LDGSTS"] >= 2, name
        assert found["STG"] >= 1 + backward, name


@pytest.mark.parametrize("arch", QUICK)
@pytest.mark.parametrize("kernel", HOT, ids=lambda kernel: kernel[1])
def test_enough_warps_fit_a_processor(kernel, arch, cubins):
    file, name = kernel
    (info,) = (made for made in cubins.compiled(file, arch).kernels if made.name == name)
    *_, threads, wanted = HOT[kernel]
    assert occupancy(arch, threads, info.registers, info.shared_bytes).warps >= wanted, info
