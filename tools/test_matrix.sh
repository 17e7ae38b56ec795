#!/usr/bin/env bash
# The test suite on the oldest and newest Python and torch that we declare, and on both mm stacks:
# one virtual environment for each, about 6 GB and some minutes of installing.
# tools/test_matrix.sh [FOLDER] -> a line for each, also in FOLDER/results.md
# A Python that the machine lacks is left out, and said so.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-matrix}
mkdir -p "$folder"
results=$folder/results.md
printf '| Python | torch | stack | result |\n| --- | --- | --- | --- |\n' > "$results"

# Python, torch's requirement, stack
matrix='
3.10 torch==2.6.* mm
3.11 torch mm
3.11 torch onedl
3.13 torch mm'

failed=0
while read -r python torch stack; do
    [ -n "$python" ] || continue
    if ! command -v "python$python" > /dev/null; then
        echo "| $python | $torch | $stack | left out: no python$python on the PATH |" >> "$results"
        continue
    fi
    name=$python-${torch//[=*]/}-$stack
    venv=$folder/$name
    if [ ! -e "$venv/installed" ]; then
        "python$python" -m venv --clear "$venv" &&
            MMCV_WITH_OPS=0 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
                "$torch" -e ".[$stack,test]" && touch "$venv/installed"
    fi
    "$venv/bin/python" -m pytest -n 2 --dist loadfile < /dev/null > "$folder/$name.log" 2>&1 || failed=1
    version=$("$venv/bin/python" -c 'import sys, torch; print(*sys.version_info[:3], sep=".", end=" | "); print(torch.__version__)')
    echo "| $version | $stack | $(tail -n 1 "$folder/$name.log" | tr -d =) |" >> "$results"
done <<< "$matrix"
cat "$results"
exit $failed
