"""Spellings that AISA-ArabicFC's score takes to be the same: closed lists by the kind of argument.

Each line is `canonical: spelling | spelling`. A spelling that stands twice counts for the later line. Source: the
rules that the shared task published with its leaderboard (v1.3, ArabicNLP 2026).
"""

from __future__ import annotations

from collections.abc import Mapping

_COUNTRIES = """
saudi: السعودية | المملكة العربية السعودية | المملكة | Saudi Arabia | KSA | Saudi
uae: الإمارات | الإمارات العربية المتحدة | UAE | United Arab Emirates | Emirates
egypt: مصر | Egypt
jordan: الأردن | Jordan
kuwait: الكويت | Kuwait
qatar: قطر | Qatar
bahrain: البحرين | Bahrain
oman: عمان | سلطنة عمان | Oman
yemen: اليمن | Yemen
syria: سوريا | سورية | الشام | Syria
lebanon: لبنان | Lebanon
iraq: العراق | Iraq
palestine: فلسطين | Palestine
tunisia: تونس | Tunisia
algeria: الجزائر | Algeria
morocco: المغرب | Morocco
libya: ليبيا | Libya
sudan: السودان | Sudan
china: الصين | China
usa: أمريكا | الولايات المتحدة | USA | US | United States | America
uk: بريطانيا | المملكة المتحدة | UK | United Kingdom | Britain
germany: ألمانيا | Germany
france: فرنسا | France
turkey: تركيا | Turkey | Türkiye
spain: إسبانيا | Spain
italy: إيطاليا | Italy
canada: كندا | Canada
india: الهند | India
japan: اليابان | Japan
switzerland: سويسرا | Switzerland
russia: روسيا | Russia
"""
_CITIES = """
amman: عمّان | Amman
dubai: دبي | Dubai
beirut: بيروت | Beirut
damascus: دمشق | Damascus
cairo: القاهرة | Cairo
ankara: أنقرة | Ankara
jerusalem: القدس | Jerusalem
irbid: إربد | Irbid
homs: حمص | Homs
tripoli: طرابلس | Tripoli
riyadh: الرياض | Riyadh
london: لندن | London
ceuta: سبتة | Ceuta
mecca: مكة | مكة المكرمة | Mecca | Makkah
medina: المدينة | المدينة المنورة | Medina | Madinah
jeddah: جدة | Jeddah
"""
_CURRENCIES = """
sar: SAR | ريال سعودي | سعودي ريال | ريال
aed: AED | درهم إماراتي | درهم
egp: EGP | جنيه مصري | الجنيه المصري | جنيه
kwd: KWD | دينار كويتي
bhd: BHD | دينار بحريني
qar: QAR | ريال قطري
omr: OMR | ريال عماني
yer: YER | ريال يمني
usd: USD | دولار أمريكي | دولار
eur: EUR | يورو | أورو
gbp: GBP | جنيه استرليني
syp: SYP | ليرة سورية | ليرة سوري | الليرة السورية
lbp: LBP | ليرة لبنانية
mad: MAD | درهم مغربي
tnd: TND | دينار تونسي
jod: JOD | دينار أردني
dzd: DZD | دينار جزائري
lyd: LYD | دينار ليبي
cad: CAD | دولار كندي
try: TRY | ليرة تركية
gram: g | gram | grams | جرام | غرام | جم
kg: kg | كيلو | كجم | كيلوجرام | كيلوغرام
"""
_LANGUAGES = """
en: en | english | الإنجليزية | انجليزية | انجليزي | الانجليزي
ar: ar | arabic | العربية | العربي | عربي
fr: fr | french | الفرنسية | الفرنسي | فرنسية | فرنسي
es: es | spanish | الإسبانية | اسباني
de: de | german | الألمانية | الماني
it: it | italian | الإيطالية
tr: tr | turkish | التركية
zh: zh | chinese | الصينية
ja: ja | japanese | اليابانية
ko: ko | korean | الكورية
fa: fa | persian | الفارسية
ur: ur | urdu | الأردية
hi: hi | hindi | الهندية
ru: ru | russian | الروسية
pt: pt | portuguese | البرتغالية
"""
_WEALTH = """
gold: gold | ذهب | الذهب
silver: silver | فضة | الفضة
cash: cash | money | maal | cash_in_bank | نقد | النقد | نقود | النقود | مال | المال | أموال | الأموال | أموال نقدية
cash: المال النقدي | مدخرات | المدخرات
trade: trade | goods | عروض تجارية | تجارة | التجارة | بضائع
crops: crops | زرع | زروع | الزروع | محاصيل | المحاصيل الزراعية
livestock: livestock | أغنام | ماشية | الماشية | أنعام
salary: salary | income | راتب | دخل
shares: shares | stocks | أسهم
realestate: عقارات | land | أرض
fitr: fitr | زكاة الفطر | فطر | الفطر
"""
_SEARCHES = """
verse: verse | آية | آيات
surah: surah | سورة
tafseer: tafseer | interpretation | تفسير
meaning: meaning | معنى | تقصي
word: word | كلمة
topic: topic | موضوع
exact: exact | بداية | start | starts_with | beginning
any: any
"""
_GOODS = """
laptop: لابتوب | لاب توب | اللاب توب | كمبيوتر محمول | حاسوب محمول | كومبيوتر محمول | جهاز لابتوب | ابتوب | laptop
computer: كمبيوتر | كومبيوتر | حاسوب | كمبيوتر مكتبي | جهاز كمبيوتر | computer
electronics: الكترونيات | اجهزة الكترونية | جهاز الكتروني | electronics | electronic device | device
clothes: ملابس | لبس | لبسة | حوايج | clothes
fashion: ازياء | موضة | fashion
camera: كاميرا | كاميرات | الات التصوير | اجهزة تصوير | camera
watch: ساعة | ساعة يد | ساعات | watch | watches
smartwatch: ساعة ذكية | smartwatch
phone: موبايل | جوال | جوالات | هاتف | هواتف | هاتف محمول | phone | mobile phone
smartphone: هاتف ذكي | smartphone
tablet: تابلت | جهاز لوحي | tablet
tv: تلفزيون | تليفزيون | تلفاز | tv
gaming: جهاز العاب | بلايستيشن | كونسول | playstation | xbox
bag: حقيبة | حقيبة يد | شنطة | bag
jewelry: مجوهرات | jewelry
accessories: اكسسوارات | اكسسوار
"""
SPECIALTIES = """
pediatrics: اطفال | pediatrician | pediatrics
cardiology: قلب | cardiology | cardiologist
ophthalmology: عيون | ophthalmology
dentistry: اسنان | dentistry | dentist
dermatology: جلدية | جلد | dermatology | dermatologist
ent: انف واذن وحنجرة | انف واذن
orthopedics: عظام
neurology: اعصاب | مخ واعصاب | neurologist
internal: باطنية | باطنة
gynecology: نساء | نسائية | نساء وتوليد | نساء وولادة | نساء ولادة | gynecologist | obstetrician-gynecologist
psychiatry: نفسي | نفسية
general: عام | general practitioner
oncology: اورام
gastroenterology: جهاز هضمي
pulmonology: جهاز تنفسي
endocrinology: غدد صماء
"""
BRANDS = """
iphone: ايفون
apple: ابل
ipad: ايباد
galaxy: جالكسي
samsung: سامسونج | سامسونغ
huawei: هواوي
xiaomi: شاومي
redmi: ريدمي
dell: ديل
lenovo: لينوفو
asus: اسوس
acer: ايسر
sony: سوني
nokia: نوكيا
sharp: شارب
playstation: بلايستيشن
xbox: اكسبوكس
nintendo: نينتندو
oppo: ابو
"""
DAYS = """
sunday: الاحد | sunday
monday: الاثنين | monday
tuesday: الثلاثاء | الثلاثا | tuesday
wednesday: الاربعاء | wednesday
thursday: الخميس | thursday
friday: الجمعة | friday
saturday: السبت | saturday
"""
RELATIVE_DAYS = """
today: اليوم | today
tomorrow: غدا | بكرة | باكر | باجر | tomorrow
day_after_tomorrow: بعد غد | بعد غدا | بعد بكرة | بعد باجر | بعد باكر | after tomorrow | day after tomorrow
day_after_tomorrow: the day after tomorrow
next_week: الاسبوع القادم | الاسبوع الجاي | الاسبوع المقبل | next week | coming week
next_month: الشهر القادم | الشهر الجاي | الشهر المقبل | next month
weekend: نهاية الاسبوع | عطلة نهاية الاسبوع | weekend | the weekend
"""
MONTHS = """
january: january | jan | يناير
february: february | feb | فبراير
march: march | mar | مارس
april: april | apr | ابريل
may: may | مايو | ماي
june: june | jun | يونيو | يونيه
july: july | jul | يوليو | يوليوز | يوليه
august: august | aug | اغسطس | غشت
september: september | sep | سبتمبر | شتنبر
october: october | oct | اكتوبر
november: november | nov | نوفمبر | نونبر
december: december | dec | ديسمبر | دجنبر
"""
NAMES = """
احمد: احمد | ahmed | ahmad
محمد: محمد | mohammed | mohamed | muhammad | mohammad | mohamad
علي: علي | ali
عبدالله: عبدالله | abdullah | abdallah | abdulla
حسن: حسن | hassan | hasan
حسين: حسين | hussein | hussain | husain
فاطمه: فاطمة | fatima | fatimah
عمر: عمر | omar | umar
خالد: خالد | khalid | khaled
ساره: سارة | sara | sarah
مريم: مريم | maryam | mariam
ماريا: ماريا | maria
نوره: نورة | noura | nora
يوسف: يوسف | youssef | yusuf | yousef
ابراهيم: ابراهيم | ibrahim
سعد: سعد | saad
فهد: فهد | fahd | fahad
عبدالرحمن: عبدالرحمن | abdulrahman | abdelrahman
"""
KIN = """
صديقي: my friend
اخي: my brother
اختي: my sister
والدي: my father
والدتي: my mother
زوجتي: my wife
زوجي: my husband
ابني: my son
"""
NUMBERS = """
0: صفر
1: واحد | واحدة | احد | احدى
2: اثنين | اثنان | اثنتين | اثنتان
3: ثلاث | ثلاثة
4: اربع | اربعة
5: خمس | خمسة
6: ست | ستة
7: سبع | سبعة
8: ثمان | ثمانية | ثماني
9: تسع | تسعة
10: عشر | عشرة
20: عشرين
30: ثلاثين
40: اربعين
50: خمسين
60: ستين
70: سبعين
80: ثمانين
90: تسعين
100: مائة | ميه
1000: الف
"""
ALIASES: Mapping[str, str] = {
    # In a field for countries عمان is the city, in one for cities the country, as the task's tables have it.
    **dict.fromkeys(("country", "destination_country", "departure_country", "nationality"), _COUNTRIES + _CITIES),
    **dict.fromkeys(("city", "departure_city", "destination_city", "arrival_city"), _CITIES + _COUNTRIES),
    **dict.fromkeys(("currency", "from_currency", "to_currency"), _CURRENCIES),
    **dict.fromkeys(("target_language", "source_language", "language"), _LANGUAGES),
    "type": _WEALTH, "search_type": _SEARCHES, "category": _GOODS,
}  # fmt: skip
"""The list for an argument, by its name."""

CARRIERS = "هاتف هواتف موبايل موبايلات جوال جوالات تليفون تلفون تيليفون جهاز اجهزة محمول"
TITLES = "طبيب دكتور اخصائي اختصاصي استشاري طب امراض قسم عيادة"
"""Words that say nothing of a product, or of a medical specialty."""

UNSCORED: Mapping[str, frozenset[str]] = {
    "translate_text": frozenset({"source_language"}),
    "check_traffic_violations": frozenset({"plate_number"}),
    "get_qibla_direction": frozenset({"latitude", "longitude"}),
    "get_weather": frozenset({"country"}),
    "calculate_end_of_service": frozenset({"country"}),
    "calculate_zakat": frozenset({"weight_unit"}),
    "check_iqama_status": frozenset({"border_number"}),
    "order_food": frozenset({"delivery_address"}),
    "search_hotels": frozenset({"stars"}),
    "search_quran": frozenset({"surah_number", "search_type"}),
    "search_umrah_packages": frozenset({"duration_days", "hotel_rating"}),
}
"""Arguments that do not count, by the gold tool: in neither the prediction nor gold."""
