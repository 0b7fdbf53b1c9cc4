"""Stand-ins of a printed program: a small model, made-up data, and a loss, by the kind of training."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.advisor.situation import Situation


@dataclass(frozen=True)
class StandIn:
    """Source text of a program's parts.

    Args:
        imports: of `torch.nn.functional`, if the loss needs it.
        model: classes and functions; `build()` makes the model (or, with `pair`, generator and discriminator).
        batches: a function `batches()` that yields a few batches on the CPU, as tuples of tensors.
        loss: a function of model and batch (with `pair`: two functions).
        pair: whether there are two networks, as in a GAN.
    """

    model: str
    batches: str
    loss: str
    pair: bool = False


def stand_in(one: Situation, optimizer: str = "") -> StandIn:
    """The stand-in that fits a situation, and an optimizer that takes sparse gradients only."""
    if optimizer == "SparseAdam":
        return _SPARSE
    task = one.task.lower()
    if one.family == "gan" and "resolution" not in task:
        return _GAN
    if one.family in ("lm_pretraining", "new_optimizer", "rnn_lm", "translation") or (
        one.family in ("fine_tuning", "large_batch") and ("lm" in task or "tuning" in task or "summar" in task)
    ):
        return _TOKENS
    if one.family == "fine_tuning" and ("text" in task or one.architecture in ("masked_lm", "recurrent")):
        return _TEXT
    if one.family == "gnn":
        return _GRAPH
    if one.family == "rl":
        return _POLICY
    if one.family == "recsys" or "ctr" in task:
        return _CLICKS
    if one.family == "speech_audio":
        return _AUDIO
    if one.family in ("tabular_timeseries", "scientific_inverse"):
        return _TABLE
    if one.family in ("diffusion", "image_restoration", "detection_segmentation") or "resolution" in task:
        return _PIXELS
    return _IMAGES


_IMAGES = StandIn(
    '''def build() -> nn.Module:
    """A small network for images of 3 x 32 x 32."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Images and classes."""
    for _ in range(BATCHES):
        yield torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, classes = batch
    return functional.cross_entropy(model(images), classes)""",
)
_PIXELS = StandIn(
    '''def build() -> nn.Module:
    """A small network from images to images."""
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Images and what the network has to predict for each pixel."""
    for _ in range(BATCHES):
        yield torch.randn(BATCH, 3, 32, 32), torch.randn(BATCH, 3, 32, 32)''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, targets = batch
    return functional.mse_loss(model(images), targets)""",
)
_TOKENS = StandIn(
    '''class Transformer(nn.Module):
    """A small language model: it predicts the next token."""

    def __init__(self, vocabulary: int = 100, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.layer(self.embedding(tokens), src_mask=mask, is_causal=True)))


def build() -> nn.Module:
    return Transformer()''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences of tokens, and the same shifted by one."""
    for _ in range(BATCHES):
        tokens = torch.randint(100, (BATCH, 17))
        yield tokens[:, :-1], tokens[:, 1:]''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    tokens, following = batch
    return functional.cross_entropy(model(tokens).flatten(0, 1), following.flatten())""",
)
_TEXT = StandIn(
    '''class Classifier(nn.Module):
    """A small stand-in for a pretrained encoder with a new head."""

    def __init__(self, vocabulary: int = 100, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens)).mean(1))


def build() -> nn.Module:
    return Classifier()''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Texts as tokens, and classes."""
    for _ in range(BATCHES):
        yield torch.randint(100, (BATCH, 16)), torch.randint(2, (BATCH,))''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    tokens, classes = batch
    return functional.cross_entropy(model(tokens), classes)""",
)
_GRAPH = StandIn(
    '''class Graph(nn.Module):
    """Two graph convolutions: each node averages over its neighbors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        return self.second(adjacency @ functional.relu(self.first(adjacency @ features)))


def build() -> nn.Module:
    return Graph()''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One graph of 30 nodes in each step: features, averages over neighbors, classes."""
    links = ((torch.rand(30, 30) < 0.1) | torch.eye(30, dtype=torch.bool)).float()
    features, classes = torch.randn(30, 16), torch.randint(4, (30,))
    for _ in range(BATCHES):
        yield features, links / links.sum(1, keepdim=True), classes''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    features, adjacency, classes = batch
    return functional.cross_entropy(model(features, adjacency), classes)""",
)
_POLICY = StandIn(
    '''def build() -> nn.Module:
    """A small policy: from an observation to the logits of the actions."""
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Observations, the actions taken, and their advantages."""
    for _ in range(BATCHES):
        yield torch.randn(BATCH, 8), torch.randint(4, (BATCH,)), torch.randn(BATCH)''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    observations, actions, advantages = batch
    surprise = functional.cross_entropy(model(observations), actions, reduction="none")
    return (surprise * advantages).mean()""",
)
_CLICKS = StandIn(
    '''class Clicks(nn.Module):
    """Embeddings of a user and an item, and a small network over both."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(100, 16)
        self.items = nn.Embedding(200, 16)
        self.top = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.top(torch.cat([self.users(users), self.items(items)], 1)).squeeze(1)


def build() -> nn.Module:
    return Clicks()''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Users, items, and clicks."""
    for _ in range(BATCHES):
        yield torch.randint(100, (BATCH,)), torch.randint(200, (BATCH,)), torch.randint(2, (BATCH,)).float()''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    users, items, clicks = batch
    return functional.binary_cross_entropy_with_logits(model(users, items), clicks)""",
)
_SPARSE = StandIn(
    '''class Pairs(nn.Module):
    """Embeddings with sparse gradients: how well two nodes fit."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = nn.Embedding(200, 16, sparse=True)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return (self.nodes(one) * self.nodes(other)).sum(1)


def build() -> nn.Module:
    return Pairs()''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of nodes, and whether they are linked."""
    for _ in range(BATCHES):
        yield torch.randint(200, (BATCH,)), torch.randint(200, (BATCH,)), torch.randint(2, (BATCH,)).float()''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    one, other, linked = batch
    return functional.binary_cross_entropy_with_logits(model(one, other), linked)""",
)
_AUDIO = StandIn(
    '''def build() -> nn.Module:
    """A small network over frames of sound: 40 features in, 30 classes out."""
    return nn.Sequential(nn.Conv1d(40, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 30, 3, padding=1))''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Frames of sound, and a class for each."""
    for _ in range(BATCHES):
        yield torch.randn(BATCH, 40, 50), torch.randint(30, (BATCH, 50))''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    frames, classes = batch
    return functional.cross_entropy(model(frames), classes)""",
)
_TABLE = StandIn(
    '''def build() -> nn.Module:
    """A small network over 8 numbers."""
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))''',
    '''def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of numbers, and what to predict."""
    for _ in range(BATCHES):
        rows = torch.randn(BATCH, 8)
        yield rows, rows.sin().sum(1, keepdim=True)''',
    """def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    rows, targets = batch
    return functional.mse_loss(model(rows), targets)""",
)
_GAN = StandIn(
    '''def build() -> tuple[nn.Module, nn.Module]:
    """A small generator (from noise to 3 x 8 x 8) and a small discriminator."""
    generator = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 192), nn.Unflatten(1, (3, 8, 8)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
    return generator, discriminator''',
    '''def batches() -> Iterator[Tensor]:
    """Real images."""
    for _ in range(BATCHES):
        yield torch.randn(BATCH, 3, 8, 8)''',
    """def loss_of_discriminator(discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    return functional.softplus(-discriminator(real)).mean() + functional.softplus(discriminator(made)).mean()


def loss_of_generator(discriminator: nn.Module, made: Tensor) -> Tensor:
    return functional.softplus(-discriminator(made)).mean()""",
    pair=True,
)
