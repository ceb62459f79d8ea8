# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
from transformers import AutoImageProcessor

from hf_cbft import BoxCue, ConnectivityEvaluator, load_digits, make_counterfactuals, mechanisms

start, end = "cbft-demo/seed-0/pretrained", "cbft-demo/seed-0/cbft"  # folders, Hub ids or models
test = load_digits(contrast=0.72)["test"]
sets = make_counterfactuals(test, BoxCue(), seed=0)  # no_cue, cue, rand_cue, rand_input
evaluator = ConnectivityEvaluator(start, end, processing_class=AutoImageProcessor.from_pretrained(start))
result = evaluator.evaluate(sets)
print(result)
print(mechanisms(result))
result.plot("path.png")
result.save("path-pretrained-to-cbft")
evaluator.save_point(result.best_alpha("rand_cue"), "soup")  # an ordinary checkpoint
