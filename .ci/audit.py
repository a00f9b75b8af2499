"""Compare what is installed with the published advisories; what could not be compared is said, not passed over."""

import json
import subprocess
import sys


def main() -> None:
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        sys.exit(f"nothing was checked: {(done.stderr.strip().splitlines() or ['pip-audit gave no reason'])[-1]}")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    concerned = [package for package in packages if package.get("vulns")]
    if len(unknown) == len(packages):
        sys.exit("nothing was checked: no index of advisories is in reach")
    print(f"{len(packages) - len(unknown)} packages compared with the advisories; not packages there: {len(unknown)}")
    for package in concerned:
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    sys.exit(1 if concerned else 0)


if __name__ == "__main__":
    main()
