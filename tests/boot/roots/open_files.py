"""Open a file 8000 times at once, by 16 processes that are below PID 1's limit of 1024."""

# For sh, with a function section(). `$file`: one of the upper layer, which is the fastest to open.
# Writes the number of descriptors of the processes when all are open, or after a time; each process
# has three others.
SCRIPT = """
section "open files"; files=$(printf "$file %.0s" $(seq 500)); readers=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
    tail -q -n 0 -s 1000 -f $files >/dev/null 2>/dev/null & readers="$readers $!"
done
count=0; tries=60
while [ $count -lt 8048 ] && [ $tries -gt 0 ]; do
    sleep 1; count=0; tries=$((tries - 1))
    for pid in $readers; do set -- /proc/$pid/fd/*; count=$((count + $#)); done
done
echo $count; uname; kill $readers 2>/dev/null
"""


def check(report: str) -> None:
    """Check what the script has written: all files are open, and programs can be executed."""
    count, name = report.splitlines()
    assert int(count) >= 16 * (500 + 3)
    assert name == "Linux"
