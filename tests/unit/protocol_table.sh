#!/bin/bash
# protocol_table.sh - the README's table of protocol features says what the code does: a row for each, the front-end's reason as
# `minivmm probe` gives it, used or not by what is negotiated, offered or not by what the SDK offers.
cd "$(dirname "$0")/../.." || exit 1
front=$(sed -n '/define VU_PROTOCOL_FEATURES/,/^$/p' bridges/vhost_user_impl.h)
back=$(sed -n '/^static uint64_t offered_protocol/,/^}/p' devices/sdk/vhost_user_handlers.c)
passed=0 failed=0
while IFS=$'\t' read -r name why; do
    bit=$(sed -n "s/^\tVHOST_USER_PF_$name = \([0-9]*\),\$/\1/p" bridges/vhost_user_wire.h)
    used='not used' offered=not
    [[ $front != *"PF_BIT($name)"* ]] || used=used
    [[ $back != *"PF_BIT($name)"* ]] || offered=offered
    if grep -qF "| $bit | $name | $used: $why | $offered" README.md; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $name: README.md has no row \"| $bit | $name | $used: $why | $offered...\""
    fi
done < <(sed -n 's/^\t\[VHOST_USER_PF_\([A-Z_]*\)\] = { "\1", "\(.*\)" },$/\1\t\2/p' bridges/vhost_user_features.c)
# As many as the specification has, each once.
if [ "$passed" != "$(grep -c '^| [0-9]* | [A-Z_]* | ' README.md)" ] || [ "$passed" -lt 24 ]; then
    failed=$((failed + 1))
    echo "FAIL README.md: $passed rows of the code's, $(grep -c '^| [0-9]* | [A-Z_]* | ' README.md) in the table"
fi
for word in $(grep '^| [0-9]* | [A-Z_]* | ' README.md | grep -o '`[a-z]*/[a-z_.]*`' | tr -d '`' | sort -u); do
    if compgen -G "tests/$word*" > /dev/null; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL README.md: there is no tests/$word"
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
