#!/bin/sh
# What `cargo xtask fuzz` has cargo run in the place of rustc, for packages of this workspace alone (RUSTC_WORKSPACE_WRAPPER):
# the compiler, then its arguments. Adds what libFuzzer has to know of a program: which edges were taken, and what was
# compared with what. Cargo keeps what comes of it apart, so dependencies are those of any other build, and are not
# instrumented.
#
# Without optimization: it takes four times as long to compile with it, and that is most of what fuzzing costs in CI.
set -eu
compiler=$1
shift
# A build script has no libFuzzer that it could tell.
case " $* " in *" --crate-name build_script_build "*) exec "$compiler" "$@" ;; esac
exec "$compiler" "$@" --cfg fuzzing -Copt-level=0 \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
