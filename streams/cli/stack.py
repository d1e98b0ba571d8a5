"""Placeholder."""
import typer

app = typer.Typer()
@app.command()
def up() -> None:
    """Up."""
@app.command()
def down() -> None:
    """Down."""
