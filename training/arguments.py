"""A phase's settings in the words of the stock trainer."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from .precision import Precision
from .settings import TrainerSettings

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(
    settings: TrainerSettings,
    folder: Path,
    seed: int,
    precision: Precision,
    run_name: str,
    predicts: bool,
    on_cpu: bool,
    resumes_data: bool,
) -> TrainingArguments:
    """What `Trainer` needs to know; every value is given, for its own defaults are for other models."""
    metric = settings.best_metric if predicts else "loss"
    beta1, beta2 = settings.betas
    return TrainingArguments(
        output_dir=str(folder),
        run_name=run_name,
        seed=seed,
        data_seed=seed,
        max_steps=settings.steps if settings.epochs is None else -1,
        num_train_epochs=settings.epochs or 1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        adam_beta1=beta1,
        adam_beta2=beta2,
        adam_epsilon=settings.epsilon,
        optim=settings.optimizer,
        max_grad_norm=settings.max_grad_norm,
        torch_compile=settings.compile,
        eval_strategy="steps",
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=settings.keep_checkpoints,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=False,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=settings.report_to or "none",
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=not on_cpu,
        # Experts and LoRA without a row in a batch get no gradient.
        ddp_find_unused_parameters=True,
        label_names=["labels"],
        remove_unused_columns=False,
        # A stream that knows its place goes on from there. Other data is gone through again: batches of clips
        # unread, a stream of worker processes by reading it.
        ignore_data_skip=resumes_data,
        use_cpu=on_cpu,
        **precision.arguments,
    )
