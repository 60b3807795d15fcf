"""The commands `darkroom backup` and `darkroom restore`."""

from __future__ import annotations

from pathlib import Path

import click

from darkroom.command_settings import command_settings
from proxy.backup.manifest import BackupError, Manifest
from proxy.backup.restoring import restore as restore_backup
from proxy.backup.writing import write_backup

_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@_file
@click.option("--models", is_flag=True, help="With the exported models, which can also be exported again.")
def backup(file: Path, models: bool) -> None:
    """Write all data of the service into FILE, a .tar.gz or .tar. The service may run meanwhile.

    In it are the database (tasks, keys, the audit trail, options of web UIs), the inputs, results and saved states of
    tasks, sessions, LoRAs, published images, policies, and .env without DATABASE_URL and HF_TOKEN. Checkpoints are not
    in it, and models only with --models.

    \b
    Examples:
      darkroom backup darkroom-monday.tar.gz
      darkroom backup --models everything.tar
    """
    try:
        manifest = write_backup(command_settings(), file, models=models)
    except BackupError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{file}: {_described(manifest)}, {file.stat().st_size / 1e6:.1f} MB.")
    if manifest.vanished:
        click.echo(f"{manifest.vanished} files were deleted by the service before they were read.")


@click.command()
@_file
@click.option("--force", is_flag=True, help="Replace data that are here; they are deleted.")
def restore(file: Path, force: bool) -> None:
    """Put the data of a backup in place. The service must not run.

    All of FILE is checked first, with its digests; a damaged one changes nothing. Data go where the settings say, which
    may be other folders than before. An .env that is here stays, and that of the backup comes beside it as
    .env.restored. The next start of the service brings a database of an older release up to date.

    \b
    Examples:
      darkroom restore darkroom-monday.tar.gz
      DATA_DIR=/srv/data darkroom restore darkroom-monday.tar.gz
      darkroom restore --force darkroom-monday.tar.gz
    """
    settings = command_settings()
    try:
        manifest, left_out = restore_backup(settings, file, force=force)
    except BackupError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{settings.data_dir}: {_described(manifest)}, made at {manifest.made_at} by Darkroom {manifest.darkroom}."
    )
    for path in left_out:
        click.echo(f"{path} cannot be written; it was left out.", err=True)


def _described(manifest: Manifest) -> str:
    return f"{len(manifest.files)} files, database {manifest.database} of version {manifest.version}"
