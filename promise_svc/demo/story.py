"""How the demo talks: what was asked, what came back, how long it took, was it right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_WIDTH = 110


class Story:
    """Writes for a terminal with color and bars, or plain lines for anything else."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_PLAIN_WIDTH, file=self.console.file)
        self.broken: list[str] = []
        """Expectations that did not hold."""

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self.console.print(f"\n[bold]{title}[/bold]")

    def step(self, title: str, milliseconds: float | None = None) -> None:
        """Something was done, and took so long."""
        took = "" if milliseconds is None else f"  [cyan]{milliseconds:.1f} ms[/cyan]"
        self.console.print(f"  {title}{took}")

    def detail(self, text: str) -> None:
        """What came back."""
        self.console.print(f"      {text}", markup=False)

    def note(self, text: str) -> None:
        """News of the machinery."""
        self.console.print(f"  {text}", style="dim", markup=False)

    def expect(self, held: bool, text: str) -> None:
        """Tell what had to hold; the demo fails when it did not."""
        if held:
            self.console.print(f"      [green]ok[/green] {text}")
        else:
            self.broken.append(text)
            self.console.print(f"      [bold red]BROKEN[/bold red] {text}")

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Ticker]:
        """A bar on a terminal, one line at the end elsewhere."""
        bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        with bar:
            yield Ticker(bar, bar.add_task(title, total=total))


class Ticker:
    """One bar."""

    def __init__(self, bar: Progress, task: object) -> None:
        self._bar = bar
        self._task = task

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._bar.advance(self._task, count)  # type: ignore[arg-type]
