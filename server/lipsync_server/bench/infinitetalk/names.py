"""Names in the tables of docs/performance.md for the keys of the JSON files, in the order of the rows.

Knows names only.
"""

FORMS = {
    "bf16_compiled": "bf16, compiled, cuDNN attention",
    "bf16_compiled_int8_scores": "bf16 with int8 attention scores",
    "bf16_fused_cudnn": "bf16, fused, cuDNN attention",
    "bf16_fused": "**bf16, fused, our bf16 attention** (default for bf16 weights)",
    "bf16_fused_int8_scores": "bf16, fused, int8 attention scores",
    "fp8_fused": "fp8 linear layers, fused, cuDNN attention",
    "fp8_fused_bf16": "fp8 linear layers, fused, our bf16 attention",
    "fp8_fused_int8_scores": "fp8 linear layers, fused, int8 attention scores",
    "fp8_fused_8bit": "**fp8 linear layers, fused, int8 scores and fp8 values** (default for 8-bit weights)",
    "fp8_fused_8bit_half": "the same, looking at half of the keys",
    "fp8_fused_8bit_quarter": "the same, looking at a quarter of the keys",
    "int8": "int8 linear layers, fused, int8 scores and fp8 values",
    "int8_compiled": "int8 linear layers (`torch._int_mm`), compiled",
}
ERRORS = {
    "bf16": "bf16",
    "bf16_fused": "bf16, fused, our bf16 attention",
    "bf16_int8_scores": "bf16, int8 attention scores",
    "bf16_8bit": "bf16, int8 scores and fp8 values",
    "bf16_8bit_half": "bf16, int8 scores and fp8 values, half of the keys",
    "bf16_8bit_quarter": "bf16, int8 scores and fp8 values, a quarter of the keys",
    "fp8_weights_only": "fp8 weights, exact products",
    "fp8": "fp8 products",
    "fp8_fused": "fp8 products, fused",
    "fp8_fused_bf16": "fp8 products, fused, our bf16 attention",
    "fp8_fused_int8_scores": "fp8 products, fused, int8 attention scores",
    "fp8_fused_8bit": "fp8 products, fused, int8 scores and fp8 values",
    "fp8_fused_8bit_half": "the same, half of the keys",
    "fp8_fused_8bit_quarter": "the same, a quarter of the keys",
    "int8_fused_8bit": "int8 products, fused, int8 scores and fp8 values",
}
KERNELS = {
    "fp8": "ours, int8 scores and fp8 values (`attention_8bit.cu`)",
    "int8": "ours, int8 scores and bf16 values",
    "bf16": "ours, bf16 (`attention_bf16.cu`)",
    "cudnn": "cuDNN, bf16",
    "sdpa": "torch's own choice",
    "flash": "FlashAttention-2 in torch",
    "efficient": "torch memory-efficient",
    "int8_both": "ours, both products in int8, for any card (`attention_int8.cu`)",
    "sage": "sageattention",
    "comfy": "comfy-kitchen `int8_attention`",
}
PARTS = {
    "condition": "picture",
    "encoder_wait": "waiting for H.264",
    "decode_and_h264": "decode with H.264",
    "take_over": "next window's start",
}
# The work of a profile's kernels, by a pattern in their names.
PROFILE = (
    (r"attention_int8|attention_fp8|attention_8bit", "our 8-bit self-attention"),
    (r"attention_bf16", "our bf16 self-attention"),
    (r"nvjet|cublas.*gemm|scaled_mm|xmma_gemm", "matrix products"),
    (r"cudnn.*sdpa|flash", "attention of cuDNN or torch"),
    (r"^_norm", "residual + norm + modulation + rounding"),
    (r"^_heads|_row_power|_tile_int8|^_mean$", "q and k: norm, rotation, rounding"),
    (r"_tile_spread|_tile_values", "values: rounding"),
    (r"^_sum", "rounding of attention outputs"),
    (r"^_gelu", "GELU + rounding"),
)
