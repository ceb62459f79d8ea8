# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Train a small ViT on a folder of images with the plain `Trainer`. Where a watermark tells the class, it learns that.

    python examples/make_watermarked_images.py shapes
    python examples/train_on_a_folder.py shapes/train watermarked-model

It stands in for a model that you have. Images are in one folder for each class.
"""

import argparse

from datasets import disable_progress_bars, load_dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging

from hf_cbft import InputCollator

SIZE = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="folder of images, in one folder for each class")
    parser.add_argument("output_dir", help="where the model and its image processor are saved")
    parser.add_argument("--max_steps", type=int, default=300, help="steps of 32 images")
    parser.add_argument("--use_cpu", action="store_true", help="also where there is a GPU")
    arguments = parser.parse_args()

    disable_progress_bars()
    logging.disable_progress_bar()
    rows = load_dataset("imagefolder", data_dir=arguments.images, split="train")
    labels = dict(enumerate(rows.features["label"].names))
    set_seed(0)
    config = ViTConfig(
        image_size=SIZE,
        patch_size=4,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    model = ViTForImageClassification(config)
    processor = ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})
    settings = TrainingArguments(
        arguments.output_dir,
        max_steps=arguments.max_steps,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=arguments.max_steps // 15,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=arguments.use_cpu,
    )
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=rows,
        data_collator=InputCollator(model, processor),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    print(f"The model is in {arguments.output_dir}/")


if __name__ == "__main__":
    main()
