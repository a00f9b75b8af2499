"""MPT's loss in a PEFT training loop: cross-entropy, plus the distance to what a teacher prompt of each source gives.

pip install "promptkernels[peft,transfer]" && python examples/own_loop/mpt_loss.py
"""

import torch
import torch.nn.functional as F
from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from promptkernels.peft import accelerate


def mpt_loss(student, teacher, labels, mask, weight=0.9):
    """Task loss + weight * (KL of the answers + squared distance of the hidden states); labels and mask are (B, S)."""
    answers, text, tokens = labels != -100, mask.bool(), labels.shape[1]
    ours, theirs = (F.log_softmax(out.logits[:, -tokens - 1 : -1][answers], dim=-1) for out in (student, teacher))
    logits = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    hidden = F.mse_loss(*(out.hidden_states[-1][:, -tokens:][text] for out in (student, teacher)))
    return student.loss + weight * (logits + hidden)


def main(steps=30):
    torch.manual_seed(0)
    # Stand-ins: your model comes from from_pretrained; your teachers (T, L, H) are prompts tuned on one source each.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes)).eval()
    teachers = 0.1 * torch.randn(3, 8, 64)
    tokens, task_ids = torch.randint(0, 200, (6, 12)), torch.tensor([0, 1, 2, 0, 1, 2])
    tokens[:, -1] = 10 + task_ids  # the answer is the last token, another one in each source
    mask, labels = torch.ones_like(tokens), tokens.clone()
    labels[:, :-1] = -100

    config = MultitaskPromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_tasks=3, num_virtual_tokens=8, num_ranks=1, prompt_tuning_init="RANDOM"
    )
    model = get_peft_model(base, config)
    for name, factors in model.named_parameters():
        if "prefix_task" in name:
            torch.nn.init.ones_(factors)  # PEFT's N(0, 0.02^2) all but erases the shared prompt
    accelerate(model)

    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.1)
    losses = []
    for _ in range(steps):
        with torch.no_grad():
            inputs = torch.cat([teachers[task_ids], base.get_input_embeddings()(tokens)], dim=1)
            teacher_mask = F.pad(mask, (teachers.shape[1], 0), value=1)
            teacher = base(inputs_embeds=inputs, attention_mask=teacher_mask, output_hidden_states=True)
        student = model(tokens, mask, labels=labels, task_ids=task_ids, output_hidden_states=True)
        loss = mpt_loss(student, teacher, labels, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
