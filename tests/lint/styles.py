"""Correct training scripts in the styles that people write, for tests of the planters in bench/lint."""

from __future__ import annotations

PLAIN = '''
"""A loop at the level of the module."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from data import test_loader, train_set

device = "cuda"
num_epochs = 5
train_loader = torch.utils.data.DataLoader(train_set, batch_size=100, shuffle=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2))
        self.fc = nn.Linear(128, 10)

    def forward(self, x):
        x = self.body(x)
        return self.fc(x)


model = Net().to(device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(num_epochs):
    model.train()
    running_loss = 0.0
    for i, (images, labels) in enumerate(train_loader):
        images = images.to(device)
        labels = labels.to(device)
        outputs = model(images)  # the forward pass
        loss = criterion(outputs, labels)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    print(epoch, running_loss / len(train_loader))
    model.eval()
    with torch.no_grad():
        correct = 0
        for images, labels in test_loader:
            correct += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
    print(correct)
torch.save(model.state_dict(), "model.pt")
'''

FUNCTIONS = """
import argparse
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.optim.lr_scheduler import StepLR
from data import test_loader, train_loader


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 128)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = self.dropout(torch.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


def train(model, device, loader, optimizer, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def test(model, device, loader):
    model.eval()
    right = 0
    for data, target in loader:
        right += (model(data.to(device)).argmax(1) == target.to(device)).sum().item()
    return right


def main(epochs=3, device="cpu"):
    model = Net().to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
    for epoch in range(1, epochs + 1):
        train(model, device, train_loader, optimizer, epoch)
        test(model, device, test_loader)
        scheduler.step()


main()
"""

TRAINER = """
import torch


class Trainer:
    def __init__(self, model, train_loader, valid_loader, device):
        self.model = model.to(device)
        self.device = device
        self.train_loader, self.valid_loader = train_loader, valid_loader
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)
        self.criterion = torch.nn.BCEWithLogitsLoss()

    def train_epoch(self):
        self.model.train()
        for step, (x, y) in enumerate(self.train_loader):
            x, y = x.to(self.device), y.to(self.device)
            logits = self.model(x)
            loss = self.criterion(logits, y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            for x, y in self.valid_loader:
                print(self.criterion(self.model(x.to(self.device)), y.to(self.device)).item())

    def fit(self, epochs):
        for epoch in range(epochs):
            self.train_epoch()
            self.evaluate()
"""

LIGHTNING = """
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule


class Classifier(LightningModule):
    def __init__(self, hidden=64, lr=1e-3):
        super().__init__()
        self.encoder = torch.nn.Linear(784, hidden)
        self.head = torch.nn.Linear(hidden, 10)

    def forward(self, x):
        return self.head(torch.relu(self.encoder(x)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        loss = F.cross_entropy(y_hat, y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)
"""

MANUAL = """
import torch
from pytorch_lightning import LightningModule


class GAN(LightningModule):
    def __init__(self, generator, discriminator):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator

    def training_step(self, batch, batch_idx):
        opt_g, opt_d = self.optimizers()
        z = torch.randn(batch.shape[0], 64, device=self.device)

        opt_d.zero_grad()
        fake = self.generator(z).detach()
        d_loss = self.discriminator(fake).mean() - self.discriminator(batch).mean()
        self.manual_backward(d_loss)
        opt_d.step()

        opt_g.zero_grad()
        g_loss = -self.discriminator(self.generator(z)).mean()
        self.manual_backward(g_loss)
        opt_g.step()

    def configure_optimizers(self):
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=1e-4)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4)
        return opt_g, opt_d
"""

ACCELERATE = """
import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import OneCycleLR
from data import create_model, eval_loader, train_loader


def training_function(num_epochs=3):
    accelerator = Accelerator()
    model = create_model()
    optimizer = torch.optim.Adam(params=model.parameters(), lr=1e-3)
    scheduler = OneCycleLR(optimizer=optimizer, max_lr=0.01, epochs=num_epochs, steps_per_epoch=len(train_loader))
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, train_loader, scheduler)
    for epoch in range(num_epochs):
        model.train()
        for step, batch in enumerate(loader):
            outputs = model(batch["image"])
            loss = torch.nn.functional.cross_entropy(outputs, batch["label"])
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        model.eval()
        for batch in eval_loader:
            with torch.no_grad():
                outputs = model(batch["image"])
            accelerator.print(outputs.argmax(dim=-1))


training_function()
"""

GAN = """
import torch
import torch.nn as nn
import torch.optim as optim
from data import dataset

dataloader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(100, 784), nn.BatchNorm1d(784), nn.Tanh())

    def forward(self, z):
        output = self.main(z)
        return output


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(784, 1), nn.Sigmoid())

    def forward(self, x):
        return self.main(x).squeeze(1)


netG = Generator()
netD = Discriminator()
criterion = nn.BCELoss()
optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
for epoch in range(5):
    for i, data in enumerate(dataloader, 0):
        netD.zero_grad()
        label = torch.full((64,), 1.0)
        output = netD(data[0])
        errD_real = criterion(output, label)
        errD_real.backward()
        noise = torch.randn(64, 100)
        fake = netG(noise)
        label.fill_(0)
        output = netD(fake.detach())
        errD_fake = criterion(output, label)
        errD_fake.backward()
        optimizerD.step()

        netG.zero_grad()
        label.fill_(1)
        output = netD(fake)
        errG = criterion(output, label)
        errG.backward()
        optimizerG.step()
"""

SCALER = """
import torch
from data import get_batch, make_model

gradient_accumulation_steps = 8
model = make_model()
scaler = torch.amp.GradScaler("cuda")
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95))
ctx = torch.amp.autocast(device_type="cuda", dtype=torch.float16)
checkpoint = torch.load("last.pt")
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
for iteration in range(1000):
    for micro_step in range(gradient_accumulation_steps):
        X, Y = get_batch("train")
        with ctx:
            logits, loss = model(X, Y)
            loss = loss / gradient_accumulation_steps  # as one large batch
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if iteration % 100 == 0:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
"""

SOURCES = {
    "plain": PLAIN,
    "functions": FUNCTIONS,
    "trainer": TRAINER,
    "lightning": LIGHTNING,
    "manual": MANUAL,
    "accelerate": ACCELERATE,
    "gan": GAN,
    "scaler": SCALER,
}
