"""Engine `preview`: a talking portrait from landmarks and a warp, on any CPU, with nothing to download."""
