"""Golden data of the FlashTalk and FlashHead references."""

from golden_files import GoldenFiles
from infinitetalk_golden import TABLE, equal, meets, within

__all__ = ["FLASHHEAD", "FLASHTALK", "TABLE", "equal", "meets", "within"]

FLASHTALK, FLASHHEAD = GoldenFiles("flashtalk"), GoldenFiles("flashhead")
