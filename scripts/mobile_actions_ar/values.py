"""Values that rows copy: places, cities, titles, subjects, phone numbers and e-mail addresses, by side of the split."""

from __future__ import annotations

import random

from scripts.mobile_actions_ar import more_values
from scripts.mobile_actions_ar.dialects.base import Half
from scripts.mobile_actions_ar.dialects.dev import values as dev_values
from scripts.mobile_actions_ar.grammar import items
from scripts.mobile_actions_ar.names import DOMAINS, FEMALE, FIRST, LAST, LATIN, LATIN_LAST, LATIN_OF

CITIES = {
    "train": items("""
        القاهرة، الإسكندرية، الجيزة، أسوان، المنصورة، طنطا، بورسعيد، الغردقة، شرم الشيخ، دمياط، سوهاج، بنها، الرياض،
        جدة، الدمام،
        المدينة المنورة، أبها، تبوك، حائل، نجران، الأحساء، ينبع، دبي، أبوظبي، الشارقة، عجمان، الدوحة، المنامة، مسقط،
        صلالة،
        مدينة الكويت، الجهراء، دمشق، حلب، حمص، اللاذقية، طرطوس، حماة، بيروت، طرابلس، صيدا، زحلة، بعلبك، عمان، إربد،
        الزرقاء، العقبة،
        القدس، نابلس، رام الله، غزة، الخليل، جنين، بغداد، البصرة، الموصل، أربيل، النجف، الرباط، الدار البيضاء، مراكش،
        فاس، طنجة،
        أكادير، وجدة، مكناس، تطوان، الصويرة، ورزازات، الجزائر، وهران، قسنطينة، عنابة، سطيف، تلمسان، بجاية، تونس،
        صفاقس، سوسة،
        القيروان، بنزرت، بنغازي، مصراتة، نواكشوط، الخرطوم، أم درمان، صنعاء، عدن، إسطنبول، باريس، لندن، مدريد، برلين،
        روما، كوالالمبور،
        نيويورك، مرسيليا، أنقرة"""),
    "test": items("""
        الأقصر، الفيوم، مرسى مطروح، الزقازيق، الطائف، الخبر، بريدة، رأس الخيمة، العين، صحار، المحرق، السالمية،
        دير الزور، السويداء،
        جبيل، صور، مادبا، بيت لحم، أريحا، كركوك، القنيطرة، الجديدة، شفشاون، باتنة، مستغانم، المنستير، جربة، سبها، تعز،
        برشلونة،
        جنيف، طوكيو"""),
}

PLACE_HEADS = "مطعم، مقهى، شارع، مستشفى، فندق، صيدلية، حديقة، مدرسة، مسجد، سوق، محطة، مكتبة، مخبز، بنك، نادي"
PLACE_NAMES = {
    "train": items("""
        النخيل، الأمل، السلام، الياسمين، الوردة البيضاء، الملك فيصل، الحرية، التحرير، الشفاء، الزيتون، البحر، النيل،
        الأندلس، القلعة،
        المدينة الجديدة، ابن سينا، الأطلس، الرمال، الفردوس، الزهراء، اللؤلؤة، بيت الشام، السعادة، الجسر القديم،
        محمد الخامس، الاستقلال،
        طيبة، الصفا، الواحة، المرجان"""),
    "test": items("""
        البستان، الربيع، النجمة الذهبية، الحمراء، المتنبي، الهلال، ابن بطوطة، الفجر الجديد، باب البحر، السنديان،
        القمة"""),
}
LANDMARKS = {
    "train": items("""
        برج القاهرة، أهرامات الجيزة، خان الخليلي، برج خليفة، برج المملكة، المسجد النبوي، كورنيش جدة، سوق واقف،
        أبراج الكويت، قلعة البحرين،
        المسجد الأموي، سوق الحميدية، قلعة حلب، صخرة الروشة، البتراء، جبل القلعة، قبة الصخرة، كنيسة المهد،
        ساحة جامع الفنا، صومعة حسان،
        مسجد الحسن الثاني، حديقة ماجوريل، مقام الشهيد، جامع الزيتونة، قرطاج، مطار القاهرة، مطار محمد الخامس،
        محطة القطار، أقرب صيدلية،
        أقرب بنزينة، أقرب مستشفى، السفارة الفرنسية، جامعة دمشق، جامعة الملك سعود، مول الإمارات، المركز التجاري،
        المتحف المصري، مكتب البريد،
        شاطئ أكادير، ميناء بيروت، أقرب صراف، موقف الباصات، المكتبة الوطنية، دار الأوبرا"""),
    "test": items("""
        قلعة قايتباي، حديقة الأزهر، برج الفيصلية، الدرعية القديمة، سوق مطرح، مغارة جعيتا، المدرج الروماني، جبل قاسيون،
        قصر الباهية، باب منصور،
        متحف باردو، أقرب محطة وقود، مطار بيروت، جامعة اليرموك، الجامع الكبير، أقرب مخبز"""),
}

TITLE_GROUPS = {
    "train": (
        ("اجتماع، مناقشة، مراجعة",
         "المبيعات، الإدارة، الميزانية، المشروع الأول، الموظفين، الفريق، العقود، الخطة السنوية، المدير الجديد"),
        ("درس، حصة، امتحان", "الرياضيات، اللغة الفرنسية، القيادة، السباحة، التاريخ، الموسيقى، النحو"),
        ("لقاء، سهرة، فطور، غداء", "العائلة، الأصدقاء، الجيران، الأحفاد، زملاء الجامعة"),
        ("زيارة، استشارة", "طبيب العيون، طبيب الأسنان، طبيب الأطفال، طبيبة العائلة، المحامي"),
        ("حفلة", "التخرج، نهاية السنة، الخطوبة، المدرسة"),
        ("تدريب، مباراة", "كرة القدم، التنس، الكاراتيه، المصارعة"),
    ),
    "test": (
        ("اجتماع، مناقشة", "التسويق، الشركاء، المستثمرين، الحملة الجديدة، المهندسين"),
        ("درس، حصة", "الكيمياء، البرمجة، الرسم، الجغرافيا"),
        ("لقاء، عشاء", "الزملاء، المتطوعين، الأقارب"),
        ("زيارة، كشف عند", "طبيب القلب، طبيب الجلد، طبيب التغذية"),
        ("تدريب، مباراة", "كرة السلة، الجودو"),
    ),
}
TITLES = {
    "train": items("""
        عيد ميلاد سارة، عيد ميلاد أمي، خطوبة أخي، صيانة السيارة، دفع الإيجار، رحلة المدرسة، موعد الحلاق،
        تجديد جواز السفر، عيادة الأسنان،
        عرس ابن عمي، مباراة المنتخب، مكالمة العميل، نادي القراءة، استلام الطلب، تسليم التقرير، تطعيم الطفل،
        تنظيف البيت، يوغا،
        امتحان الفيزياء، شراء هدية، فطور الجمعة، استقبال الضيوف، مؤتمر الطب، عقد القران"""),
    "test": items("""
        عيد ميلاد يوسف، زفاف ريم، تغيير زيت السيارة، سداد القرض، رحلة البر، تجديد الرخصة، مباراة القمة، معرض الكتاب،
        امتحان القبول،
        تسليم الواجب، استلام الشقة، جلسة التصوير"""),
}
SUBJECT_GROUPS = {
    "train": (
        ("تقرير، ملخص، نتائج، جدول",
         "المبيعات السنوية، شهر مارس، المشروع، الاجتماع، التدريب، الصيانة، الامتحانات، الحملة، المؤتمر"),
        ("فاتورة، عرض أسعار", "الكهرباء، الشحنة، الفندق، الموقع، السجاد، الأثاث، الطباعة"),
        ("طلب، استفسار عن", "إجازة، نقل، شهادة عمل، زيادة الراتب، الوظيفة، السكن، العقد"),
        ("خطة، ملاحظات، تحديث", "السفر، العمل، الأسبوع القادم، التصميم، البحث، الميزانية"),
        ("دعوة إلى، برنامج", "الحفل، المؤتمر، الندوة، الافتتاح، المعرض"),
    ),
    "test": (
        ("تقرير، نتائج، جدول", "شهر نوفمبر، الإنتاج، المختبر، الرحلات، الدورة"),
        ("فاتورة", "الماء، الهاتف، الأجهزة، النقل"),
        ("طلب، شكوى عن", "التأمين، المنحة، تأخير الشحن، القرض"),
        ("خطة، رد على", "التوظيف، رسالتكم، المخزن، المراجعة"),
    ),
}
EMAIL_BODIES = {
    "train": items("""
        أرجو الرد قبل نهاية الأسبوع، الملف جاهز للتحميل، تجدون التفاصيل في المرفق، شكرًا على تعاونكم، ننتظر موافقتكم،
        تم تحويل المبلغ،
        أحتاج إلى نسخة موقعة، يسعدنا حضوركم معنا، الموعد مناسب لنا، نعتذر عن التأخير، وصلت الشحنة كاملة،
        أرفقت لكم الصور، يرجى تأكيد العدد،
        سنرسل الفاتورة قريبًا، هل يمكن تغيير التاريخ، بانتظار ملاحظاتكم، السعر يشمل التوصيل، العقد يحتاج إلى مراجعة،
        أتمنى لكم التوفيق،
        تم حل المشكلة، لدي سؤال عن الدفع، الأرقام في الجدول صحيحة، أقترح لقاء قصيرًا، نرجو إرسال العنوان،
        أنا موافق على الشروط،
        القاعة محجوزة باسمكم، لم تصلني الرسالة السابقة، أرسلت النسخة الأخيرة، الفريق جاهز للبدء،
        سأكون متاحًا بعد الظهر"""),
    "test": items("""
        نأمل استلام ردكم اليوم، المستندات كلها مكتملة، راجعت المسودة ولا تعديل عندي، يسرنا التعامل معكم،
        الدفعة الثانية مستحقة، أحيطكم علمًا بالتغيير،
        الطرد ناقص قطعتين، برجاء تحديد ساعة مناسبة، أعتذر عن عدم الحضور، تم قبول طلبكم، أرغب في زيارة المصنع،
        أضفت التوقيع المطلوب"""),
}
SUBJECTS = {
    "train": items("""
        تأجيل الاجتماع، السيرة الذاتية، شكر وتقدير، تهنئة بالعيد، موعد التسليم، طلب إجازة مرضية، صور الرحلة،
        تأكيد الحجز، مشكلة في الحساب،
        تغيير العنوان، اقتراح جديد، كلمة السر، إلغاء الاشتراك، موافقة مبدئية"""),
    "test": items("""
        إعادة الجدولة، خطاب التوصية، تهنئة بالنجاح، شهادة الخبرة، صور الحفل، استرداد المبلغ، عطل الطابعة، فتح الحساب،
        تقديم استقالة"""),
}
PHONES = {
    "egyptian": {"010": 11, "011": 11, "012": 11, "015": 11, "+2010": 13},
    "gulf": {"05": 10, "+9665": 13, "+97150": 13, "+9655": 12},
    "levantine": {"079": 10, "078": 10, "03": 8, "71": 8, "09": 10, "+96279": 13, "+9613": 11},
    "maghrebi": {"06": 10, "07": 10, "+2126": 13, "+2136": 13, "+2162": 12},
}
TABLES = {"CITIES": CITIES, "PLACE_NAMES": PLACE_NAMES, "LANDMARKS": LANDMARKS, "TITLES": TITLES, "SUBJECTS": SUBJECTS,
          "EMAIL_BODIES": EMAIL_BODIES, "TITLE_GROUPS": TITLE_GROUPS, "SUBJECT_GROUPS": SUBJECT_GROUPS}  # fmt: skip
for _name, _table in TABLES.items():
    _table["train"] = type(_table["train"])((*_table["train"], *getattr(more_values, _name)))
    _table["dev"] = getattr(dev_values, _name)
PLACE_HEADS_OF = {"train": f"{PLACE_HEADS}، {more_values.PLACE_HEADS}", "dev": PLACE_HEADS, "test": PLACE_HEADS}
Groups = tuple[tuple[str, str], ...]


def grouped(whole: list[str], groups: Groups, rng: random.Random, share: float) -> str:
    """A whole value, or for the given share a head and an end of the same group."""
    if rng.random() >= share:
        return rng.choice(whole)
    heads, ends = rng.choice(groups)
    return f"{rng.choice(items(heads))} {rng.choice(items(ends))}"


def mixed(whole: list[str], heads: str, ends: list[str], rng: random.Random, share: float) -> str:
    """A whole value, or a head followed by an end for the given share."""
    if rng.random() < share:
        return f"{rng.choice(items(heads))} {rng.choice(ends)}"
    return rng.choice(whole)


def title(where: str, rng: random.Random) -> str:
    """A calendar title."""
    return grouped(TITLES[where], TITLE_GROUPS[where], rng, 0.65)


def subject(where: str, rng: random.Random) -> str:
    """A subject of an e-mail."""
    return grouped(SUBJECTS[where], SUBJECT_GROUPS[where], rng, 0.75)


def place(where: str, rng: random.Random) -> str:
    """A place to look for on a map."""
    return mixed(LANDMARKS[where], PLACE_HEADS_OF[where], PLACE_NAMES[where], rng, 0.7)


def city(where: str, rng: random.Random) -> str:
    """A city."""
    return rng.choice(CITIES[where])


def person(where: str, region: str, gender: str, rng: random.Random) -> tuple[str, str]:
    """A first name and a family name heard in the region ("msa": in any); gender "f", "m" or "" for either."""
    if region == "msa":
        region = rng.choice(("egyptian", "gulf", "levantine", "maghrebi"))
    firsts = FIRST[where][rng.choice((region, "shared"))]
    fitting = [name for name in firsts if not gender or (name in FEMALE) == (gender == "f")]
    return rng.choice(fitting), rng.choice(LAST[where][rng.choice((region, region, "shared"))])


def recipient(half: Half, where: str, region: str, gender: str, rng: random.Random) -> str:
    """Somebody to call or to write to: a first name, a full name, or a word such as "my mother"."""
    first, last = person(where, region, gender, rng)
    women = FEMALE.union(items(half.women))
    relatives = [word for word in items(half.kin) if not gender or (word in women) == (gender == "f")]
    return rng.choices((first, f"{first} {last}", rng.choice(relatives)), weights=(30, 45, 25))[0]


def body(half: Half, rng: random.Random) -> str:
    """A text of a message."""
    return mixed(items(half.bodies), half.body_heads, items(half.body_objects), rng, 0.55)


def email(where: str, rng: random.Random) -> str:
    """An e-mail address in Latin letters."""
    first, last = rng.choice(LATIN[where]), rng.choice(LATIN_LAST[where])
    local = rng.choice((f"{first}.{last}", f"{first}{rng.randrange(1, 99)}", f"{first}_{last}", f"{first}{last}"))
    return f"{local}@{rng.choice(DOMAINS)}"


def own_email(first: str, rng: random.Random) -> str:
    """An e-mail address made from a first name."""
    local = LATIN_OF[first]
    return f"{local}{rng.choice(('', '.', '_'))}{rng.randrange(10, 1000)}@{rng.choice(DOMAINS)}"


def phone(region: str, rng: random.Random) -> str:
    """A phone number in a local or an international form of the region ("msa": any), in ASCII digits."""
    start, length = rng.choice(list(PHONES[rng.choice(list(PHONES)) if region == "msa" else region].items()))
    return start + "".join(str(rng.randrange(10)) for _ in range(length - len(start)))
