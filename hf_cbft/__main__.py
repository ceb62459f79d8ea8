# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m hf_cbft` is `hf-cbft`."""

import sys

from hf_cbft.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
