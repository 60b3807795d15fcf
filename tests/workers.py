"""Which tests run in one worker, one after the other: those of a file, and files that use the same service or exports.

A service takes 10 to 20 seconds to start, and the exports of a checkpoint take a minute, so files with equal needs
share them. Two workers that both ran some of these files would both make them, or one would wait for the other.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

_SERVICE = """
bench client client_generate demo_checkpoint demo_hidream fairness generate generate_refused hostile http_files
init_image keys lora_sessions metrics openai png_info sdapi sdapi_backend_client service status studio studio_browser
studio_images tasks tasks_client tasks_submit upscale upscale_files
"""
_GROUPS = {
    "service": ("tests/contract", _SERVICE),
    "lora_service": ("tests/contract", "client_loras loras studio_train train_and_generate"),
    "small_service": ("tests/contract", "fields openapi"),
    "sd15_exports": ("tests/parity", "sd15_export sd15_export_networks sd15_safety_checker"),
    "sdxl_exports": ("tests/families/sdxl", "sdxl_export sdxl_loras sdxl_single_file"),
}
"""Folders and the names of test files in them. A group is named after the fixture that its files share."""
_GROUP_OF = {f"{folder}/test_{name}.py": group for group, (folder, names) in _GROUPS.items() for name in names.split()}


def group_of(nodeid: str) -> str:
    """The group of a test, or the path of its file if that is in no group."""
    file = nodeid.partition("::")[0]
    return _GROUP_OF.get(file, file)


class GroupScheduling(LoadFileScheduling):
    """`--dist loadfile` of pytest-xdist, with groups of files in place of files."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def bring_together(items: list[pytest.Item]) -> None:
    """Sort tests so that those of a group follow each other; otherwise the order is kept."""
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        first.setdefault(group_of(item.nodeid), index)
    items.sort(key=lambda item: first[group_of(item.nodeid)])
