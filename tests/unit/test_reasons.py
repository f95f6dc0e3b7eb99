"""A comment that switches off a check gives the reason: `# noqa: S608 - our own names`."""

import io
import re
import tokenize

from written_names import ROOT, tracked_files

# For a type: `# type: ignore[misc]  # tqdm has no types`. A reason in the lines above may be referred to.
REASON = re.compile(r"# noqa: [A-Z]+[0-9]+(, [A-Z]+[0-9]+)* - \w|# type: ignore\[[a-z, -]+\]  # \w")


def test_every_exception_to_a_check_names_its_rule_and_its_reason() -> None:
    bare = []
    for name in tracked_files():
        if name.endswith(".py"):
            source = (ROOT / name).read_text(encoding="utf-8")
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                told = token.type == tokenize.COMMENT and re.search(r"noqa|type: *ignore", token.string)
                if told and not REASON.search(token.string):
                    bare.append(f"{name}:{token.start[0]}: {token.string}")
    assert not bare
