"""Whether a corpus and a base are those that a message names."""

from sublora.certificate.assemble import coded_setting
from sublora.coding.message import Header
from sublora.corpus.corpus import Corpus
from sublora.corpus.split import check_split
from sublora.errors import CertificateError


def require_base(header: Header, base: str, name: str = "") -> None:
    """Raise CertificateError unless a base is given exactly where a message needs one.

    Args:
        header: the message's.
        base: source of a pretrained base; "" for a random one. Its hash is compared when it is loaded.
        name: of the base, where a certificate gives one.
    """
    pretrained = header.architecture.kind == "pretrained"
    if pretrained and not base:
        named = f" ({name})" if name else ""
        raise CertificateError(f"the message names a pretrained base{named}: give your own copy with --base")
    if base and not pretrained:
        raise CertificateError("the message's base is random, made from its seed: leave out --base")


def require_match(header: Header, corpus: Corpus, base: str, name: str = "") -> None:
    """Raise unless somebody's corpus and base can be those of a message.

    Args:
        header: the message's.
        corpus: to measure on.
        base: the folder, file or name of somebody's own copy; "" where there is none.
        name: of the base, for errors.

    Raises:
        CertificateError: a base is missing or too much, or the corpus is another one.
        CorpusError: the corpus was not divided as it says.
    """
    require_base(header, base, name)
    setting = header.setting
    found = coded_setting(
        corpus,
        bound_type=setting.bound_type,
        delta=setting.delta,
        joint=setting.joint,
        population=setting.split_seed is not None,
        prior=setting.prior_tag is not None,
        ngram_order=setting.ngram_order,
    )
    if found != setting:
        differs = next(name for name, value in vars(setting).items() if value != getattr(found, name))
        raise CertificateError(
            f"{differs} differs: the message says {getattr(setting, differs)}, but the corpus has "
            f"{getattr(found, differs)}"
        )
    if setting.split_seed is not None:
        check_split(corpus)
