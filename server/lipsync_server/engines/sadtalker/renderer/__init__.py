"""The face renderer: keypoints, dense motion and the generator."""
