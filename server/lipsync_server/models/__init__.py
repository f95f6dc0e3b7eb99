"""Parts of models that several engines share: kernels, layers, the Wan VAE, encoders, tensor files, sampling."""
