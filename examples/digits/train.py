"""Train a small neural network on scikit-learn's handwritten digits, by mini-batches, on one CPU core.

    headrace run -- python examples/digits/train.py --epochs 5

Logs `loss` and `accuracy` each step and `test/accuracy` each epoch; writes `model.pkl` to the job folder. After each
epoch it saves all that it needs to go on, and says so: a later attempt of the same job goes on from there. It runs just
as well without Headrace: `headrace.log` then writes below the working folder.
"""

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import headrace


class Classifier:
    """Two layers, ReLU between them, softmax behind; trained by Adam (Kingma and Ba, 2015)."""

    def __init__(self, inputs: int, hidden: int, classes: int, rng: np.random.Generator) -> None:
        self.weights = [
            rng.normal(0, np.sqrt(2 / inputs), (inputs, hidden)),
            np.zeros(hidden),
            rng.normal(0, np.sqrt(2 / hidden), (hidden, classes)),
            np.zeros(classes),
        ]
        self.first = [np.zeros_like(w) for w in self.weights]
        self.second = [np.zeros_like(w) for w in self.weights]
        self.steps = 0

    def probabilities(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden = np.maximum(x @ self.weights[0] + self.weights[1], 0)
        scores = hidden @ self.weights[2] + self.weights[3]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True), hidden

    def step(self, x: np.ndarray, y: np.ndarray, rate: float) -> tuple[float, float]:
        """One update on a mini-batch; gives the loss and accuracy before it."""
        p, hidden = self.probabilities(x)
        n = len(y)
        loss = -np.log(p[np.arange(n), y] + 1e-12).mean()
        accuracy = (p.argmax(axis=1) == y).mean()
        error = p.copy()
        error[np.arange(n), y] -= 1
        error /= n
        back = (error @ self.weights[2].T) * (hidden > 0)
        self.steps += 1
        for i, g in enumerate([x.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]):
            self.first[i] += 0.1 * (g - self.first[i])
            self.second[i] += 0.001 * (g * g - self.second[i])
            first = self.first[i] / (1 - 0.9**self.steps)
            second = self.second[i] / (1 - 0.999**self.steps)
            self.weights[i] -= rate * first / (np.sqrt(second) + 1e-8)
        return float(loss), float(accuracy)


class Checkpoint:
    """Where the next attempt goes on: in the job folder, which all attempts share. Outside of a job: nowhere."""

    def __init__(self) -> None:
        folder = os.environ.get("HEADRACE_JOB_DIR")
        self.path = Path(folder) / "checkpoint.pkl" if folder else None

    def load(self) -> tuple[int, Classifier, np.random.Generator] | None:
        if self.path is None or not self.path.exists():
            return None
        return pickle.loads(self.path.read_bytes())

    def save(self, epoch: int, model: Classifier, rng: np.random.Generator) -> None:
        if self.path is not None:
            draft = self.path.with_suffix(".new")
            draft.write_bytes(pickle.dumps((epoch, model, rng)))
            draft.replace(self.path)  # at once: whoever is stopped here finds the old one or the new one
            headrace.checkpointed()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, test_size=0.2, random_state=options.seed, stratify=y)
    model, done = Classifier(64, 128, 10, rng), 0
    checkpoint = Checkpoint()
    if (found := checkpoint.load()) is not None:
        done, model, rng = found
        print(f"goes on behind epoch {done}", flush=True)

    step = model.steps
    for epoch in range(done + 1, options.epochs + 1):
        order = rng.permutation(len(y_train))
        for batch in range(0, len(order), options.batch):
            rows = order[batch : batch + options.batch]
            loss, accuracy = model.step(x_train[rows], y_train[rows], options.rate)
            step += 1
            headrace.log(step=step, loss=loss, accuracy=accuracy)
        test_accuracy = float((model.probabilities(x_test)[0].argmax(axis=1) == y_test).mean())
        headrace.log({"test/accuracy": test_accuracy}, step=step)
        print(
            f"epoch {epoch}/{options.epochs} step {step} loss {loss:.4f} test accuracy {test_accuracy:.4f}", flush=True
        )
        checkpoint.save(epoch, model, rng)

    path = Path(os.environ.get("HEADRACE_JOB_DIR", ".")) / "model.pkl"
    path.write_bytes(pickle.dumps(model.weights))
    print(f"model written to {path}")


if __name__ == "__main__":
    main()
