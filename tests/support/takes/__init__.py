"""An engine for tests of the check in jobs: the preview's frames, spoilt with every seed but one.

The preview itself cannot show that another attempt is better: its mouth is the same with every seed, and the check does
not judge it. This engine has a name of its own, so that the check judges it.
"""
