"""Every op in plain torch: what the fused kernels are compared with."""
