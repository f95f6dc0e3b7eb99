"""GPU kernels and their plain paths: attention, fused passes, 8-bit products, rotary embedding."""
