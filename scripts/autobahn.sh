#!/usr/bin/env bash
# Runs the Autobahn WebSocket test suite against the broker's own HTTP front, frame reader and connection, and holds
# the result against scripts/autobahn-expected.txt.
#
# usage: scripts/autobahn.sh [CASE...]      all the cases of the table, or only those that match, such as 6.4.*
#
# The suite is Python 2: AUTOBAHN_PYTHON may name an interpreter; else python2.7 on PATH or one of pyenv's is taken.
# Without one the script fails; it never passes unrun. The suite itself is kept under target/autobahn.
set -euo pipefail
cd "$(dirname "$0")/.."

expected=$PWD/scripts/autobahn-expected.txt
version=$(awk '$1 == "version" { print $2 }' "$expected")
target=${CARGO_TARGET_DIR:-$PWD/target}
home=$target/autobahn

say() { printf 'autobahn: %s\n' "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${AUTOBAHN_PYTHON:+"$AUTOBAHN_PYTHON"} python2.7 \
    {"$(pyenv root 2>/dev/null || true)","${PYENV_ROOT:-}","$HOME/.pyenv",/opt/pyenv,/usr/local/pyenv}/versions/2.7.*/bin/python; do
    # A shim of pyenv is on PATH even where the version behind it is not chosen: only running it tells.
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say 'FAILED: no Python 2.7, which the suite needs: it does not run on any Python 3.'
  say 'Looked at $AUTOBAHN_PYTHON, python2.7 on PATH, and versions/2.7.* of pyenv.'
  say 'Remedy: pyenv install 2.7.18, or AUTOBAHN_PYTHON=/path/to/python2.7.'
  return 1
}

# Installs the suite beside its final place and moves it there when it is whole, so that a run cut short leaves none.
install_suite() {
  local python stage=$home/suite.partial
  python=$(find_python)
  say "installing autobahntestsuite $version with $python (about a minute, once)"
  rm -rf "$stage" "$home/suite"
  mkdir -p "$stage"
  if ! {
    "$python" -m pip install --target "$stage/virtualenv" 'virtualenv<20.22' &&
      PYTHONPATH=$stage/virtualenv "$python" -m virtualenv "$stage/python" &&
      "$stage/python/bin/python" -m pip install "autobahntestsuite==$version"
  } > "$home/install.log" 2>&1; then
    tail -20 "$home/install.log" >&2
    say 'FAILED: the suite could not be installed'
    return 1
  fi
  mv "$stage" "$home/suite"
}

# Not through the script `wstest`: its first line names the place where it was installed.
suite_python=$home/suite/python/bin/python
if ! "$suite_python" -c "import pkg_resources as p; assert p.get_distribution('autobahntestsuite').version == '$version'" 2>/dev/null; then
  mkdir -p "$home"
  install_suite
fi

cargo build --quiet --package tidegate --no-default-features --profile quick --example conformance_echo

reports=$home/reports
rm -rf "$reports"
mkdir -p "$reports"
coproc ECHO { exec "$target/quick/examples/conformance_echo"; }
echo_pid=$ECHO_PID
trap 'kill "$echo_pid" 2>/dev/null || true' EXIT
read -r -t 120 port <&"${ECHO[0]}" || { say 'FAILED: the echo server did not start'; exit 1; }

if [ $# -gt 0 ]; then cases=("$@"); else
  read -r -a cases < <(awk '$1 == "sections" { for (i = 2; i <= NF; i++) printf "%s.* ", $i; print "" }' "$expected")
fi
printf '{"outdir": "%s", "servers": [{"agent": "tidegate", "url": "ws://127.0.0.1:%s/ws"}], "cases": [%s], "exclude-cases": [], "exclude-agent-cases": {}}\n' \
  "$reports" "$port" "$(printf '"%s", ' "${cases[@]}" | sed 's/, $//')" > "$home/spec.json"

say "running ${cases[*]} against ws://127.0.0.1:$port/ws"
started=$SECONDS
# The suite's exit status is 0 whatever it finds: the verdict is read from its report.
if ! timeout 900 "$suite_python" -c 'from autobahntestsuite.wstest import run; run()' \
  --mode fuzzingclient --spec "$home/spec.json" > "$home/wstest.log" 2>&1; then
  tail -20 "$home/wstest.log" >&2
  say 'FAILED: the suite did not run to its end'
  exit 1
fi

"$suite_python" - "$expected" "$reports/index.json" "$((SECONDS - started))" "$#" <<'PYTHON'
from __future__ import print_function
import collections, json, sys

expected_path, report_path, seconds, chosen = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
expected, wanted = {}, None
for line in open(expected_path):
    words = line.split()
    if not words or words[0] in ("#", "version", "sections"):
        continue
    if words[0] == "cases":
        wanted = int(words[1])
    elif words[0][0].isdigit():
        expected[words[0]] = words[1]

report = json.load(open(report_path)).get("tidegate", {})
key = lambda case: [int(number) for number in case.split(".")]
sections = collections.OrderedDict()
failures = []
for case in sorted(report, key=key):
    verdict, close = report[case]["behavior"], report[case]["behaviorClose"]
    section = sections.setdefault(key(case)[0], collections.Counter())
    section[verdict] += 1
    section["ms"] += report[case]["duration"]
    if verdict != expected.get(case, "OK") or close not in ("OK", "INFORMATIONAL"):
        failures.append("%s: %s, close %s (code %s)" % (case, verdict, close, report[case]["remoteCloseCode"]))
if not chosen:
    failures += ["%s: not run" % case for case in sorted(set(expected) - set(report), key=key)]
    if len(report) != wanted:
        failures.append("%d cases ran, %d are expected" % (len(report), wanted))

verdicts = ["OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "FAILED"]
known = set(verdicts)
print("section " + " ".join("%13s" % verdict for verdict in verdicts) + "      other        ms")
for section, counts in sections.items():
    other = sum(count for verdict, count in counts.items() if verdict not in known and verdict != "ms")
    print("%7d " % section + " ".join("%13d" % counts[verdict] for verdict in verdicts) + " %10d %9d" % (other, counts["ms"]))
for failure in failures:
    print("NOT AS EXPECTED " + failure)
good = sum(counts["OK"] + counts["INFORMATIONAL"] for counts in sections.values())
print("autobahn: %d of %d cases OK or informational, %d not as expected, %d s" % (good, len(report), len(failures), seconds))
sys.exit(1 if failures or not report else 0)
PYTHON
