"""Run pip-audit (its command is this script's), and say what it found: three answers, where it knows two.

It passes over what its service does not answer for, and then says that nothing was found. Here that is not audited: it
is said, and is an error where AUDIT=required stands in the environment.
"""

import json
import os
import subprocess
import sys


def main() -> int:
    """Say what was found; 1 where something was, or where nothing is known though it must be."""
    ran = subprocess.run(sys.argv[1:], capture_output=True, text=True)
    try:
        packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        packages = []
        print(ran.stderr, file=sys.stderr)
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'none'}"
        for package in packages
        for flaw in package.get("vulns", [])
    ]
    audited = len(packages) - len(unknown)
    for line in found:
        print(line)
    if not audited:
        print("audit: NOT audited: no advisory service can be reached from here")
    elif unknown:
        print(f"audit: NOT audited, because the service does not know them: {', '.join(unknown)}")
    if audited:
        print(f"audit: {len(found)} known vulnerabilities in {audited} of {len(packages)} packages")
    return int(bool(found) or (os.environ.get("AUDIT") == "required" and (bool(unknown) or not audited)))


if __name__ == "__main__":
    sys.exit(main())
