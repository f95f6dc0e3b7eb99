"""What several engines compute with: kernels, layers, the Wan VAE, encoders, tensor files, sampling."""
