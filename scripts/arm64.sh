#!/usr/bin/env bash
# scripts/arm64.sh FOLDER [PYTEST ARGUMENTS]: run the embedded suite on 64-bit ARM under user-mode emulation.
#
# Needs root, Debian or Ubuntu on x86-64, mmdebstrap, and qemu-user 10 or newer registered with binfmt_misc (flag F). QEMU 7.2
# crashes inside torch. FOLDER gets a Debian for arm64 (0.3 GB) and the wheels of constraints.txt for aarch64 (5 GB: torch's
# wheel for ARM Linux needs the CUDA libraries to be there, although no GPU is used). Then, for example:
#
#     scripts/arm64.sh /var/tmp/arm64 cases/tiny.yaml::nvfp4
#
# The verdicts, with the distance of each clip from the golden that was made on x86-64, are printed at the end. Give it a CPU to
# itself: a starved engine counts as frozen. A case takes half an hour. The emulated CPU has bf16; one without it (QEMU_CPU=neoverse-n1)
# takes twice as long, because torch raises and catches an exception per Linear there.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd); shift
root=$folder/root python=${PYTHON:-python3.11}
test -x "$here/.venv/bin/python" || { echo "no .venv: make setup"; exit 1; }
test -e /proc/sys/fs/binfmt_misc/qemu-aarch64 || { echo "QEMU is not registered for aarch64: apt-get install qemu-user-binfmt"; exit 1; }

if [ ! -d "$root/usr" ]; then
  # The packages are unpacked and never configured: no foreign program runs.
  mmdebstrap --variant=extract --architectures=arm64 \
    --include=bash,ca-certificates,coreutils,dash,git,libgomp1,libstdc++6,python3 bookworm "$root"
fi

if [ ! -d "$root/opt/site/torch" ]; then
  platforms=(--platform any --platform manylinux2014_aarch64)
  for version in $(seq 17 36); do platforms+=(--platform "manylinux_2_${version}_aarch64"); done
  fetch=("$python" -m pip install --quiet --no-compile --only-binary=:all: --python-version 3.11 --implementation cp
    --abi cp311 --abi abi3 --abi none "${platforms[@]}")
  # The closure of the dependencies, as installed here, without the local part of a version (+cpu).
  "$here/.venv/bin/python" - > "$folder/wheels.txt" <<'PY'
import importlib.metadata as metadata, re
from packaging.requirements import Requirement
todo, versions = ["quantgate"], {}
while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    if name not in versions:
        versions[name] = found.version.partition("+")[0]
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": "", "platform_machine": "aarch64"}):
                todo.append(requirement.name)
del versions["quantgate"]
print(*(f"{name}=={version}" for name, version in sorted(versions.items())), sep="\n")
PY
  "${fetch[@]}" --no-deps --target "$root/opt/site" -r "$folder/wheels.txt"
  grep -ihE '^Requires-Dist: (cuda-toolkit|nvidia-)' "$root"/opt/site/torch-*.dist-info/METADATA |
    sed -E 's/^Requires-Dist: //; s/;.*//' > "$folder/cuda.txt"
  if [ -s "$folder/cuda.txt" ]; then "${fetch[@]}" --target "$root/opt/cuda" -r "$folder/cuda.txt"; fi
fi

mkdir -p "$root/proc" "$root/dev" "$root/root"
mountpoint -q "$root/proc" || mount --bind /proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
for cpu in 0 1; do  # oneDNN reads the CPU's model from here, and ends the process where it cannot
  mkdir -p "$root/sys/devices/system/cpu/cpu$cpu/regs/identification"
  echo 0x00000000413fd0c1 > "$root/sys/devices/system/cpu/cpu$cpu/regs/identification/midr_el1"
done

rm -rf "$root/repo" && mkdir "$root/repo"
git -C "$here" archive HEAD | tar -x -C "$root/repo"
cp -r "$here/tiny/exports" "$root/repo/tiny/"
# Deadlines move no pixel; an emulated CPU needs other ones.
sed -i 's/timeouts: {load: 300, generate: 300}/timeouts: {load: 14400, generate: 14400}/' "$root"/repo/cases/*.yaml
information=$root/opt/site/quantgate-0.1.0.dist-info
mkdir -p "$information"
printf 'Metadata-Version: 2.1\nName: quantgate\nVersion: 0.1.0\n' > "$information/METADATA"
cp "$here"/.venv/lib/python3*/site-packages/quantgate-*.dist-info/entry_points.txt "$information/"

libraries=$(cd "$root" && find opt/cuda -name '*.so*' -printf '/%h\n' 2>/dev/null | sort -u | paste -sd:)
exec nice -n 19 env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin PYTHONPATH=/repo:/opt/site LD_LIBRARY_PATH="$libraries" \
  OMP_NUM_THREADS=1 QUANTGATE_STARTER=0 QEMU_CPU="${QEMU_CPU:-max,sve=off,sme=off}" HOME=/root HF_HUB_OFFLINE=1 chroot "$root" /usr/bin/python3 -c \
  'import os, sys; os.chdir("/repo"); import pytest; sys.exit(pytest.main(sys.argv[1:]))' \
  "${@:-cases/tiny.yaml}" --runner cpu -v -p no:cacheprovider --attribution 0
