#!/bin/bash
# Debian's git and compiler, from a shared directory, work on a project in another one, and make what they
# make on the host.
. "$(dirname "$0")/lib.sh"
ROOTFS_NAME=build ROOTFS_PACKAGES="git gcc libc6-dev make"
. "$(dirname "$0")/rootfs.sh"
. "$(dirname "$0")/share.sh"

# Runs in a Debian tree, /mnt is the project's place. What it prints must not depend on time.
cat >"$WORK/compute" <<'SCRIPT'
set -e
export HOME=/mnt/home GIT_AUTHOR_DATE=2020-01-01T00:00:00Z GIT_COMMITTER_DATE=2020-01-01T00:00:00Z
mkdir -p $HOME /mnt/project
cd /mnt/project
git config --global user.name Guest
git config --global user.email guest@example.org
git config --global init.defaultBranch main
git init -q .
{
    printf 'CFLAGS = -O1 -Wall\nOBJS = main.o'
    i=0; while [ $i -lt 30 ]; do printf ' part%d.o' $i; i=$((i+1)); done
    printf '\nprogram: libparts.a\n\t$(CC) -o $@ main.o libparts.a\nlibparts.a: $(OBJS)\n\tar rcsD $@ $^\n'
    printf '$(OBJS): parts.h\nclean:\n\trm -f *.o *.a program\n'
} >Makefile
: >parts.h
printf '#include <stdio.h>\n#include "parts.h"\nint main(void)\n{\n    int s = 0;\n' >main.c
i=0; while [ $i -lt 30 ]; do
    echo "int part$i(int x);" >>parts.h
    printf '#include <stdlib.h>\n#include "parts.h"\nint part%d(int x) { return abs(x) * %d; }\n' $i $i >part$i.c
    echo "    s += part$i(-2);" >>main.c
    i=$((i+1))
done
printf '    printf("sum %%d%%c", s, 10);\n    return 0;\n}\n' >>main.c
printf '*.o\n*.a\nprogram\n' >.gitignore
ln -s part0.c first.c; printf '#!/bin/sh\necho ran\n' >run.sh; chmod 755 run.sh
git add -A && git commit -qm 'the first'
git status --short
make -s -j2
./program; ./run.sh
touch part3.c; make | grep -c '^cc'
git status --short
echo '/* change */' >>part5.c
git diff --stat | cat
git commit -qam 'the second'
git checkout -q -b other HEAD~1
echo '/* other */' >>part9.c
git commit -qam other
git merge -q -m merged main
git stash list; git gc -q
git fsck --full --no-progress 2>/dev/null && git log --oneline | cat
git count-objects -v | grep -E 'in-pack|^count'
git clone -q . ../clone
cd ../clone
git fsck --full --no-progress 2>/dev/null
ls -l | awk 'NR > 1 { print $1, $2, $9, $10, $11 }'
make -s && ./program && ./run.sh
sha256sum libparts.a program
make -s clean && git status --short && git rev-parse 'HEAD^{tree}'
cd .. && rm -rf clone project home && ls
SCRIPT
initrd "mount -t 9p -o $OPTIONS,ro,cache=loose debian /mnt && mount -t 9p -o $OPTIONS,cache=mmap work /mnt/mnt || exit 1
mount -t proc proc /mnt/proc; mount -t tmpfs tmp /mnt/tmp; mount --bind /dev /mnt/dev
cp /compute /mnt/tmp/compute
echo begin-results
chroot /mnt /bin/sh /tmp/compute; s=\$?
echo end-results
umount /mnt/mnt /mnt/tmp /mnt/proc /mnt/dev /mnt && exit \$s" $SHARE_MODULES --file "$WORK/compute:/compute"
mkdir "$WORK/share"
boot 900 0 --memory 1G --cpus 2 --share "$ROOTFS.d,tag=debian,readonly" --share "$WORK/share,tag=work"
# Times of files are the host's; the guest's clock started from the RTC, which knows whole seconds.
sed -i '/^make: .*\(modification time\|Clock skew\)/d' "$LOG"
expect_clean_log
tr -d '\r' <"$LOG" | sed -n '/^begin-results/,/^end-results/p' | grep -vE '^\[ *[0-9]+\.[0-9]+\]' >"$WORK/guest-results"
rootfs_host
grep -q '^sum ' "$WORK/host-results" || { tail "$WORK/host-results"; fail "the host's own run failed"; }
diff "$WORK/host-results" "$WORK/guest-results" || fail "the guest's results differ from the host's"
