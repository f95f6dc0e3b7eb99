"""InfiniteTalk (single and two people) on Wan2.1-I2V-14B: the real model behind the engine interface."""
