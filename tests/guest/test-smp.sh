#!/bin/bash
# Two vCPUs come up, work at the same time, and agree.
. "$(dirname "$0")/lib.sh"

initrd 'grep -c ^processor /proc/cpuinfo
head -c 3000000 /dev/urandom >/tmp/data
want=$(sha256sum </tmp/data)
for i in 1 2 3 4; do
  (for n in 1 2 3; do [ "$(sha256sum </tmp/data)" = "$want" ] || echo wrong; cp /tmp/data /tmp/copy$i; cmp /tmp/data /tmp/copy$i || echo wrong; done; echo done-$i) &
done
wait
awk "/^ *(LOC|RES|CAL|TLB)/" /proc/interrupts
exit 0'
boot 200 0 --cpus 2 --memory 1G
expect '^2'
for i in 1 2 3 4; do expect "^done-$i"; done
expect 'smp: Brought up 1 node, 2 CPUs'
reject '^wrong'
expect_clean_log
