"""Checks the record of decisions on versions, and the files of all versions."""

from collections.abc import Sequence

from hip_mri.errors import ReleaseError
from hip_mri.registry.audit import (
    DECISIONS,
    FIRST,
    group_by_version,
    hash_line,
    parse_line,
    read_decisions,
    read_lines,
    read_record,
)
from hip_mri.registry.versions import check_version, list_versions, name_version
from hip_mri.storage import read_json
from hip_mri.workspace import Workspace


def check_audit_log(workspace: Workspace) -> list[str]:
    """Check the chain of the audit log, and that `champion.json` and the versions record the same decisions.

    Returns:
        One sentence per difference.
    """
    name, record, lines = workspace.audit_file.name, read_record(workspace), read_lines(workspace)
    if not workspace.audit_file.exists() and not _is_logged(workspace):
        return []  # of an earlier version, or without decisions
    decisions = [parse_line(line) for line in lines]
    differences, previous = [], FIRST
    for number, (line, decision) in enumerate(zip(lines, decisions, strict=True), start=1):
        if decision is None or decision.order != number:
            differences.append(f"{name}: line {number} is damaged, or a line before it was removed or inserted")
        elif decision.previous_sha256 != previous:
            differences.append(f"{name}: line {number} does not follow from line {number - 1}: one of them was changed")
        previous = hash_line(line)
    if (len(lines), previous) != (record.num_lines, record.sha256):
        newest = f"line {record.num_lines} that {workspace.champion_file.name} records as the newest"
        differences.append(f"{name}: its last line, number {len(lines)}, is not the {newest}")
    changes = [it for it in decisions if it is not None and it.action != "rejection"]
    if not differences and list(record.history) != changes:
        differences.append(f"{workspace.champion_file.name}: its history differs from the decisions in {name}")
    return differences + ([] if differences else _compare_versions(workspace, lines))


def verify_releases(workspace: Workspace) -> list[str]:
    """Check the audit log, and the files of every version; returns one sentence per difference."""
    differences, decisions = check_audit_log(workspace), read_decisions(workspace)
    versions = list_versions(workspace)
    numbers = {version.number for version in versions}
    last = max(numbers | {decision.version for decision in decisions}, default=0)
    missing = sorted(set(range(1, last + 1)) - numbers)  # numbers follow each other
    differences += [f"version {name_version(number)}: its folder is missing" for number in missing]
    for version in versions:
        if not all(it.applies_to(version) for it in decisions if it.version == version.number):
            differences.append(f"version {version.name} is not the one that {workspace.audit_file.name} records")
        try:
            check_version(version)
        except ReleaseError as error:
            differences.append(str(error))
    return differences


def _is_logged(workspace: Workspace) -> bool:
    return workspace.champion_file.exists() and "audit" in read_json(workspace.champion_file)


def _compare_versions(workspace: Workspace, lines: Sequence[bytes]) -> list[str]:
    """Compare the decisions in the folders of versions; a killed process may not have written the newest one."""
    before, after = group_by_version(lines[:-1]), group_by_version(lines)
    files = {number: workspace.versions_folder / name_version(number) / DECISIONS for number in after}
    return [
        f"{file.relative_to(workspace.releases_folder)} differs from the decisions in {workspace.audit_file.name}; "
        "the next decision writes it again"
        for number, file in files.items()
        if (read_json(file) if file.is_file() else []) not in (after[number], before.get(number, []))
    ]
