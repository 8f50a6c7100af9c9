"""Values that rows copy: places, cities, titles, subjects, phone numbers and e-mail addresses, by side of the split."""

from __future__ import annotations

import random

from scripts.mobile_actions_ar.dialects.base import Half
from scripts.mobile_actions_ar.grammar import items, lines
from scripts.mobile_actions_ar.names import DOMAINS, FIRST, LAST, LATIN, LATIN_LAST

CITIES = {
    "train": items("""
        القاهرة، الإسكندرية، الجيزة، أسوان، المنصورة، طنطا، بورسعيد، الغردقة، شرم الشيخ، دمياط، سوهاج، بنها، الرياض، جدة، الدمام،
        المدينة المنورة، أبها، تبوك، حائل، نجران، الأحساء، ينبع، دبي، أبوظبي، الشارقة، عجمان، الدوحة، المنامة، مسقط، صلالة،
        مدينة الكويت، الجهراء، دمشق، حلب، حمص، اللاذقية، طرطوس، حماة، بيروت، طرابلس، صيدا، زحلة، بعلبك، عمان، إربد، الزرقاء، العقبة،
        القدس، نابلس، رام الله، غزة، الخليل، جنين، بغداد، البصرة، الموصل، أربيل، النجف، الرباط، الدار البيضاء، مراكش، فاس، طنجة،
        أكادير، وجدة، مكناس، تطوان، الصويرة، ورزازات، الجزائر، وهران، قسنطينة، عنابة، سطيف، تلمسان، بجاية، تونس، صفاقس، سوسة،
        القيروان، بنزرت، بنغازي، مصراتة، نواكشوط، الخرطوم، أم درمان، صنعاء، عدن، إسطنبول، باريس، لندن، مدريد، برلين، روما، كوالالمبور،
        نيويورك، مرسيليا، أنقرة"""),
    "test": items("""
        الأقصر، الفيوم، مرسى مطروح، الزقازيق، الطائف، الخبر، بريدة، رأس الخيمة، العين، صحار، المحرق، السالمية، دير الزور، السويداء،
        جبيل، صور، مادبا، بيت لحم، أريحا، كركوك، القنيطرة، الجديدة، شفشاون، باتنة، مستغانم، المنستير، جربة، سبها، تعز، برشلونة،
        جنيف، طوكيو"""),
}

PLACE_HEADS = "مطعم، مقهى، شارع، مستشفى، فندق، صيدلية، حديقة، مدرسة، مسجد، سوق، محطة، مكتبة، مخبز، بنك، نادي"
PLACE_NAMES = {
    "train": items("""
        النخيل، الأمل، السلام، الياسمين، الوردة البيضاء، الملك فيصل، الحرية، التحرير، الشفاء، الزيتون، البحر، النيل، الأندلس، القلعة،
        المدينة الجديدة، ابن سينا، الأطلس، الرمال، الفردوس، الزهراء، اللؤلؤة، بيت الشام، السعادة، الجسر القديم، محمد الخامس، الاستقلال،
        طيبة، الصفا، الواحة، المرجان"""),
    "test": items("""
        البستان، الربيع، النجمة الذهبية، الحمراء، المتنبي، الهلال، ابن بطوطة، الفجر الجديد، باب البحر، السنديان، القمة"""),
}
LANDMARKS = {
    "train": items("""
        برج القاهرة، أهرامات الجيزة، خان الخليلي، برج خليفة، برج المملكة، المسجد النبوي، كورنيش جدة، سوق واقف، أبراج الكويت، قلعة البحرين،
        المسجد الأموي، سوق الحميدية، قلعة حلب، صخرة الروشة، البتراء، جبل القلعة، قبة الصخرة، كنيسة المهد، ساحة جامع الفنا، صومعة حسان،
        مسجد الحسن الثاني، حديقة ماجوريل، مقام الشهيد، جامع الزيتونة، قرطاج، مطار القاهرة، مطار محمد الخامس، محطة القطار، أقرب صيدلية،
        أقرب بنزينة، أقرب مستشفى، السفارة الفرنسية، جامعة دمشق، جامعة الملك سعود، مول الإمارات، المركز التجاري، المتحف المصري، مكتب البريد،
        شاطئ أكادير، ميناء بيروت، أقرب صراف، موقف الباصات، المكتبة الوطنية، دار الأوبرا"""),
    "test": items("""
        قلعة قايتباي، حديقة الأزهر، برج الفيصلية، الدرعية القديمة، سوق مطرح، مغارة جعيتا، المدرج الروماني، جبل قاسيون، قصر الباهية، باب منصور،
        متحف باردو، أقرب محطة وقود، مطار بيروت، جامعة اليرموك، الجامع الكبير، أقرب مخبز"""),
}

TITLE_HEADS = {
    "train": "اجتماع، حفلة، زيارة، درس، لقاء، غداء، تدريب، مقابلة، مناقشة، حصة، فحص، مراجعة، سهرة",
    "test": "اجتماع، حفلة، زيارة، درس، لقاء، عشاء، تدريب، مقابلة، ورشة",
}
TITLE_ENDS = {
    "train": items("""
        المبيعات، الفريق، الإدارة، العائلة، طبيب العيون، الرياضيات، الأصدقاء، السباحة، المدير الجديد، العمل، اللغة الفرنسية، التخرج،
        الميزانية، المشروع الأول، الموظفين، الجيران، القيادة، البيانو، الأسنان، المدرسة"""),
    "test": items("""
        التسويق، الزملاء، طبيب القلب، الكيمياء، كرة السلة، البرمجة، خالتي، رأس السنة، الشركاء، المتطوعين، الرسم"""),
}
TITLES = {
    "train": items("""
        عيد ميلاد سارة، عيد ميلاد أمي، خطوبة أخي، صيانة السيارة، دفع الإيجار، رحلة المدرسة، موعد الحلاق، تجديد جواز السفر، عيادة الأسنان،
        عرس ابن عمي، مباراة المنتخب، مكالمة العميل، نادي القراءة، استلام الطلب، تسليم التقرير، تطعيم الطفل، تنظيف البيت، يوغا،
        امتحان الفيزياء، شراء هدية، فطور الجمعة، استقبال الضيوف، مؤتمر الطب، عقد القران"""),
    "test": items("""
        عيد ميلاد يوسف، زفاف ريم، تغيير زيت السيارة، سداد القرض، رحلة البر، تجديد الرخصة، مباراة القمة، معرض الكتاب، امتحان القبول،
        تسليم الواجب، استلام الشقة، جلسة التصوير"""),
}
SUBJECT_HEADS = {
    "train": "تقرير، عرض أسعار، فاتورة، طلب، ملخص، جدول، خطة، تحديث، ملاحظات، نتائج، استفسار عن، دعوة إلى",
    "test": "تقرير، فاتورة، طلب، جدول، خطة، نتائج، شكوى عن، رد على",
}
SUBJECT_ENDS = {
    "train": items("""
        المبيعات السنوية، شهر مارس، المشروع، الاجتماع، الكهرباء، الإجازة، السفر، الحفل، التدريب، الموظفين، الصيانة، العقد، الوظيفة،
        الامتحانات، الشحنة، الموقع، الحملة، المؤتمر، الفندق، الطلاب"""),
    "test": items("""
        شهر نوفمبر، الإنتاج، الماء، النقل، الرحلات، المختبر، الأجهزة، التأمين، المنحة، المخزن، الدورة"""),
}
SUBJECTS = {
    "train": items("""
        تأجيل الاجتماع، السيرة الذاتية، شكر وتقدير، تهنئة بالعيد، موعد التسليم، طلب إجازة مرضية، صور الرحلة، تأكيد الحجز، مشكلة في الحساب،
        تغيير العنوان، اقتراح جديد، كلمة السر، إلغاء الاشتراك، موافقة مبدئية"""),
    "test": items("""
        إعادة الجدولة، خطاب التوصية، تهنئة بالنجاح، شهادة الخبرة، صور الحفل، استرداد المبلغ، عطل الطابعة، فتح الحساب، تقديم استقالة"""),
}
PHONES = {"train": ("05", "010", "012", "06", "079", "+9665", "+2126", "+2010", "+96279", "071"),
          "test": ("055", "011", "07", "078", "+97150", "+21361", "+9613", "+2011")}
LENGTHS = {"+": 12, "0": 10}


def mixed(whole: list[str], heads: str, ends: list[str], rng: random.Random, share: float) -> str:
    """A whole value, or a head followed by an end for the given share."""
    if rng.random() < share:
        return f"{rng.choice(items(heads))} {rng.choice(ends)}"
    return rng.choice(whole)


def title(where: str, rng: random.Random) -> str:
    """A calendar title."""
    return mixed(TITLES[where], TITLE_HEADS[where], TITLE_ENDS[where], rng, 0.65)


def subject(where: str, rng: random.Random) -> str:
    """A subject of an e-mail."""
    return mixed(SUBJECTS[where], SUBJECT_HEADS[where], SUBJECT_ENDS[where], rng, 0.75)


def place(where: str, rng: random.Random) -> str:
    """A place to look for on a map."""
    return mixed(LANDMARKS[where], PLACE_HEADS, PLACE_NAMES[where], rng, 0.7)


def city(where: str, rng: random.Random) -> str:
    """A city."""
    return rng.choice(CITIES[where])


def person(where: str, rng: random.Random) -> tuple[str, str]:
    """A first name and a family name."""
    return rng.choice(FIRST[where]), rng.choice(LAST[where])


def recipient(half: Half, where: str, rng: random.Random) -> str:
    """Somebody to call or to write to: a first name, a full name, or a word such as "my mother"."""
    first, last = person(where, rng)
    return rng.choices((first, f"{first} {last}", rng.choice(items(half.kin))), weights=(30, 45, 25))[0]


def body(half: Half, rng: random.Random) -> str:
    """A text of a message."""
    return mixed(items(half.bodies), half.body_heads, items(half.body_objects), rng, 0.55)


def email(where: str, rng: random.Random) -> str:
    """An e-mail address in Latin letters."""
    first, last = rng.choice(LATIN[where]), rng.choice(LATIN_LAST[where])
    local = rng.choice((f"{first}.{last}", f"{first}{rng.randrange(1, 99)}", f"{first}_{last}", f"{first}{last}"))
    return f"{local}@{rng.choice(DOMAINS)}"


def phone(where: str, rng: random.Random) -> str:
    """A phone number in a local or an international form, in ASCII digits."""
    start = rng.choice(PHONES[where])
    length = LENGTHS[start[0]] + (start in ("010", "011", "012"))
    return start + "".join(str(rng.randrange(10)) for _ in range(length - len(start)))


def kin(half: Half) -> list[str]:
    """The words for relatives and roles."""
    return [word for line in lines(half.kin) for word in items(line)]
