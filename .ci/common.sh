# What .ci/run and .ci/all share.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

# The n-th fenced bash block of README.md.
block() {
  awk -v wanted="$1" '/^```bash$/ { n++; inside = (n == wanted); next } /^```$/ { inside = 0 } inside' README.md
}

# README's first command, with the demo's --quick.
command_one() {
  rm -rf .venv cbft-demo
  block 1 | sed 's/^hf-cbft demo.*/& --quick/' >/tmp/hf-cbft-readme-1.sh
  grep -q -- --quick /tmp/hf-cbft-readme-1.sh && bash -e /tmp/hf-cbft-readme-1.sh && rm -rf cbft-demo
}

# README's second command, word for word.
command_two() {
  block 2 >/tmp/hf-cbft-readme-2.sh && bash -e /tmp/hf-cbft-readme-2.sh
}

browser_tests() {
  if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null || return 1
  fi
  .venv/bin/pytest -m browser tests/reporting
}

linters() {
  .venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
}

# Without --quiet: --strict counts no warnings then.
site() {
  local built
  built=$(mktemp -d)
  NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --site-dir "$built" && rm -rf "$built"
}
