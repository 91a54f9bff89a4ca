"""A run from plan to proof, cell by cell; takes about two minutes on two cores.

    .venv/bin/python examples/walk_through.py [section.key=value ...]

Everything here also works in a notebook: each `# %%` starts a cell.
"""

# %% What shall be promised? A configuration is a file, a mapping, or both with overrides.
import sys
import tempfile
from pathlib import Path

from privfed_dpo import load_config, plan, train

HOME = Path(__file__).resolve().parent.parent
SHELF = Path(tempfile.mkdtemp(prefix="privfed-dpo-walk-"))
config = load_config(HOME / "configs" / "quickstart.yaml", sys.argv[1:])

# %% Before any compute: epsilon against every adversary, noise, threshold, upload.
promise = plan(config).describe()
for adversary, bound in promise["epsilon"].items():
    print(f"{adversary:10}  epsilon {bound['pld']:.3f}  (RDP {bound['rdp']:.3f})")
print(f"noise multiplier {promise['noise_multiplier']:.3f}, threshold {promise['threshold']}")

# %% What would a stricter promise cost? The same call, one key changed.
strict = plan(config, "privacy.target_epsilon=1").describe()
print(f"epsilon 1 needs noise {strict['noise_multiplier']:.3f}")

# %% Train. Observers are told everything that happens.
run = train(config, run_dir=SHELF / "run", observers=[lambda event: print(type(event).__name__)])

# %% What came out: one row per round, privacy beside utility.
for row in run.rows:
    print(row["round"], row["status"], row["reward_accuracy"], row["epsilon"])
print(run.statement)

# %% Anyone can check the record without trusting whoever trained.
verdict = run.verify(known_head=run.summary["ledger_head"])
print(verdict.as_text())

# %% The adapter is an ordinary peft adapter.
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

base = AutoModelForCausalLM.from_pretrained(run.folder / "base")
tokenizer = AutoTokenizer.from_pretrained(run.folder / "base")
aligned = run.load(base)
prompt = tokenizer("please", return_tensors="pt")["input_ids"]
print(tokenizer.decode(aligned.generate(prompt, max_new_tokens=8)[0]))

# %% The report is one page that needs no network; the card stands beside the adapter.
print(run.report)
print(run.adapter_folder / "README.md")
