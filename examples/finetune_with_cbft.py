# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
from transformers import AutoImageProcessor

from hf_cbft import BoxCue, CBFTConfig, CBFTTrainer, add_cue, load_digits

start = "cbft-demo/seed-0/pretrained"  # a folder or a Hub id: the model that relies on the cue
digits = load_digits(contrast=0.72)
trainer = CBFTTrainer(
    model=start,
    args=CBFTConfig(
        "cbft-model", learning_rate=3e-3, barrier_margin=2.0, max_steps=360, per_device_train_batch_size=64
    ),
    train_dataset=digits["finetune"],  # a little clean data
    cue_dataset=add_cue(digits["pretrain"], BoxCue()),  # the training data with the shortcut
    processing_class=AutoImageProcessor.from_pretrained(start),
)
trainer.train()
trainer.save_model()
