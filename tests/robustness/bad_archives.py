"""Archives of images: names that lead elsewhere, links, passwords, damage, bombs. None is ever unpacked to disk."""

import io
import json
import struct
import tarfile
import zipfile

from case import Case, colour, write

PREPARE = "--mode=prepare --data.name=folder:{} --output=out"
ZIP, TAR = PREPARE.format("set.zip"), PREPARE.format("set.tar")
IMAGES = {f"{name}/{i}.png": colour(20 * i + 5) for name in "ab" for i in range(3)}


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(files, mode="w", **links):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                member.type, member.linkname = data
                archive.addfile(member)
    return content.getvalue()


def within(*folders):
    """The images in each of the folders."""
    return {f"{folder}/{name}": content for folder in folders for name, content in IMAGES.items()}


def archive(content, name="set.zip"):
    return lambda folder: write(folder / name, content() if callable(content) else content)


def encrypted():
    """The flag of encryption set in both headers of every member."""
    content = bytearray(zipped(IMAGES))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(magic)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(magic, at + 4)
    return bytes(content)


def claims(size):
    """The first member says in the table of contents that it unpacks to `size` bytes."""
    content = bytearray(zipped({"a/bomb.png": bytes(10**6), **IMAGES}))
    at = content.find(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(content)


def flipped(content, position):
    content = bytearray(content)
    content[position] ^= 0xFF
    return bytes(content)


def prepared(count):
    """So many images of classes a and b, and nothing else, are in the prepared set."""

    def check(folder, result):
        about = json.loads((folder / "out/dataset.json").read_text())
        assert about["classes"] == ["a", "b"]
        assert sum(split["count"] for split in about["splits"].values()) == count

    return check


def huge_tar():
    """A member that says it has 300 MB, and nothing behind it."""
    member = tarfile.TarInfo("a/huge.png")
    member.size = 3 * 10**8
    return member.tobuf() + tarred(IMAGES)


LEADS_OUT = "leads out"
CASES = [
    Case("zip_slip", ZIP, LEADS_OUT, archive(lambda: zipped({**IMAGES, "../../slip/x.png": colour(1)}))),
    Case("zip_absolute", ZIP, LEADS_OUT, archive(lambda: zipped({**IMAGES, "/etc/a/x.png": colour(1)}))),
    Case("zip_backslashes", ZIP, LEADS_OUT, archive(lambda: zipped({**IMAGES, "..\\..\\a\\x.png": colour(1)}))),
    Case("zip_drive", ZIP, LEADS_OUT, archive(lambda: zipped({**IMAGES, "C:\\a\\x.png": colour(1)}))),
    Case("tar_slip", TAR, LEADS_OUT, archive(lambda: tarred({**IMAGES, "a/../../../x.png": colour(1)}), "set.tar")),
    Case("tar_absolute", TAR, LEADS_OUT, archive(lambda: tarred({**IMAGES, "/elsewhere/x.png": colour(1)}), "set.tar")),
    Case("tar_symlinks_are_passed_over", TAR, prepared(6), archive(lambda: tarred(
        {**IMAGES, "a/link.png": (tarfile.SYMTYPE, "/etc/passwd"), "b/up.png": (tarfile.SYMTYPE, "../../x.png")}), "set.tar")),
    Case("tar_link_for_a_folder", TAR, "x.png: cannot be read as an image", archive(lambda: tarred(
        {**IMAGES, "b/out": (tarfile.SYMTYPE, "/tmp"), "b/out/x.png": colour(1)[:50]}), "set.tar")),
    Case("tar_hard_links_are_passed_over", TAR, prepared(6), archive(lambda: tarred(
        {**IMAGES, "a/link.png": (tarfile.LNKTYPE, "/etc/passwd")}), "set.tar")),
    Case("tar_devices_are_passed_over", TAR, prepared(6), archive(lambda: tarred(
        {**IMAGES, "a/tty.png": (tarfile.CHRTYPE, ""), "a/pipe.png": (tarfile.FIFOTYPE, "")}), "set.tar")),
    Case("tar_of_a_dot", TAR, prepared(6), archive(lambda: tarred({f"./{k}": v for k, v in IMAGES.items()}), "set.tar")),
    Case("mac_leftovers_are_passed_over", ZIP, prepared(6), archive(lambda: zipped(
        {**IMAGES, "__MACOSX/a/._0.png": b"x", "a/.DS_Store": b"x", "a/Thumbs.db": b"x"}))),
    Case("splits_in_any_case", ZIP, prepared(12), archive(lambda: zipped(within("x/Training", "x/TEST")))),
    Case("splits_of_other_names", ZIP, "set.zip: p, q all hold the folders a, b: they look like splits", archive(
        lambda: zipped(within("x/p", "x/q")))),
    Case("splits_without_classes", ZIP, "set.zip: test, train are named like splits", archive(
        lambda: zipped({"train/1.png": colour(1), "test/1.png": colour(2)}))),
    Case("test_split_without_classes", ZIP, "set.zip: test has no folders of images", archive(
        lambda: zipped({**within("train"), "test/1.png": colour(2)}))),
    Case("same_name_twice", TAR, prepared(6), archive(lambda: tarred({**IMAGES, "./a/0.png": colour(77)}), "set.tar")),
    Case("zip_encrypted", ZIP, "set.zip: a/ ... encrypted", archive(encrypted)),
    Case("zip_cut", ZIP, "set.zip: cannot be read as an archive", archive(lambda: zipped(IMAGES)[:-30])),
    Case("zip_flipped", ZIP, "set.zip: ", archive(lambda: flipped(zipped(IMAGES), 60))),
    Case("zip_empty_file", ZIP, "set.zip: cannot be read as an archive", archive(b"")),
    Case("zip_of_nothing", ZIP, "set.zip needs folders of images", archive(lambda: zipped({}))),
    Case("zip_of_one_class", ZIP, "set.zip needs folders of images", archive(lambda: zipped(
        {"a/1.png": colour(1), "a/2.png": colour(2)}))),
    Case("zip_without_folders", ZIP, "set.zip needs folders of images", archive(lambda: zipped({"1.png": colour(1)}))),
    Case("zip_bomb_of_4_gigabytes", ZIP, "a/bomb.png of 4,294,967,280 bytes is too large", archive(lambda: claims(2**32 - 16))),
    Case("zip_bomb_that_says_less", ZIP, "set.zip: a/bomb.png: cannot be read", archive(lambda: claims(100))),
    Case("zip_with_text", ZIP, "a/9.png: not an image", archive(lambda: zipped({**IMAGES, "a/9.png": b"text"}))),
    Case("zip_of_another_compression", ZIP, "set.zip: a/ ... cannot be read", archive(
        lambda: flipped(zipped(IMAGES, zipfile.ZIP_LZMA), 47))),
    Case("tar_cut", TAR, "set.tar: ", archive(lambda: tarred(IMAGES)[:700], "set.tar")),
    Case("tar_flipped", TAR, "set.tar: cannot be read as an archive", archive(lambda: flipped(tarred(IMAGES), 150), "set.tar")),
    Case("tar_empty_file", TAR, "set.tar: cannot be read as an archive", archive(b"", "set.tar")),
    Case("tar_member_of_300_megabytes", TAR, "a/huge.png of 300,000,000 bytes is too large", archive(huge_tar, "set.tar")),
    Case("tgz_cut", PREPARE.format("set.tgz"), "set.tgz: ", archive(lambda: tarred(IMAGES, "w:gz")[:-40], "set.tgz")),
    Case("tgz_flipped", PREPARE.format("set.tgz"), "set.tgz: ", archive(lambda: flipped(tarred(IMAGES, "w:gz"), 200), "set.tgz")),
    Case("tar_called_zip", ZIP, "set.zip: cannot be read as an archive", archive(lambda: tarred(IMAGES))),
    Case("other_suffix", PREPARE.format("set.rar"), "set.rar: not a folder, and not one of .zip", archive(b"Rar!", "set.rar")),
    Case("unknown_class_in_test", ZIP, "no class of that name in the training split", archive(lambda: zipped(
        {**{f"train/{k}": v for k, v in IMAGES.items()}, "test/c/1.png": colour(1)}))),
]  # fmt: skip
