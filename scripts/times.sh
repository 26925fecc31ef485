#!/usr/bin/env bash
# times.sh REPORT…: how long tests took by binary and module, the longest first, from nextest's JUnit reports. The seconds
# are those of the tests themselves; where several run at once, they are more than what the clock shows.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,3p' "$0" | cut -c3- >&2 && exit 2; }
awk '
    function value(name) { # of an attribute of this line
        if (!match($0, " " name "=\"[^\"]*\"")) return ""
        return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4)
    }
    # The unit tests have the name of the package, the others that and their own.
    /<testsuite / { suite = value("name"); if (!sub(/^.*::/, "", suite)) suite = "src" }
    /<testcase / {
        split(value("name"), path, "::")
        part = suite " " path[1]
        seconds[part] += value("time"); tests[part]++
    }
    END { for (part in seconds) printf "%8.0f s %6d tests  %s\n", seconds[part], tests[part], part }
' "$@" | sort -rn
