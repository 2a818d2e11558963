"""The facts of the world, as plain tables; `world.py` gives them types and access.

Countries, cities, calendars and words are true of the real world (countries whose capital, main language or currency
is disputed or in transition are left out). People and companies are invented, and fixed. One row per line, columns
separated by `|`, so that a fact can be checked, or corrected, by reading one line.
"""

from __future__ import annotations

# name | capital | currency | continent | main language
COUNTRIES = """
France|Paris|euro|Europe|French
Germany|Berlin|euro|Europe|German
Italy|Rome|euro|Europe|Italian
Spain|Madrid|euro|Europe|Spanish
Portugal|Lisbon|euro|Europe|Portuguese
the Netherlands|Amsterdam|euro|Europe|Dutch
Austria|Vienna|euro|Europe|German
Greece|Athens|euro|Europe|Greek
Finland|Helsinki|euro|Europe|Finnish
Sweden|Stockholm|krona|Europe|Swedish
Norway|Oslo|krone|Europe|Norwegian
Denmark|Copenhagen|krone|Europe|Danish
Iceland|Reykjavik|krona|Europe|Icelandic
Poland|Warsaw|zloty|Europe|Polish
Hungary|Budapest|forint|Europe|Hungarian
Czechia|Prague|koruna|Europe|Czech
Romania|Bucharest|leu|Europe|Romanian
Serbia|Belgrade|dinar|Europe|Serbian
Croatia|Zagreb|euro|Europe|Croatian
Slovakia|Bratislava|euro|Europe|Slovak
Slovenia|Ljubljana|euro|Europe|Slovene
Estonia|Tallinn|euro|Europe|Estonian
Latvia|Riga|euro|Europe|Latvian
Lithuania|Vilnius|euro|Europe|Lithuanian
Albania|Tirana|lek|Europe|Albanian
Ukraine|Kyiv|hryvnia|Europe|Ukrainian
Russia|Moscow|ruble|Europe|Russian
Switzerland|Bern|franc|Europe|German
the United Kingdom|London|pound|Europe|English
Ireland|Dublin|euro|Europe|English
Turkey|Ankara|lira|Asia|Turkish
Japan|Tokyo|yen|Asia|Japanese
China|Beijing|yuan|Asia|Chinese
South Korea|Seoul|won|Asia|Korean
India|New Delhi|rupee|Asia|Hindi
Pakistan|Islamabad|rupee|Asia|Urdu
Bangladesh|Dhaka|taka|Asia|Bengali
Nepal|Kathmandu|rupee|Asia|Nepali
Thailand|Bangkok|baht|Asia|Thai
Vietnam|Hanoi|dong|Asia|Vietnamese
Cambodia|Phnom Penh|riel|Asia|Khmer
Mongolia|Ulaanbaatar|tugrik|Asia|Mongolian
Malaysia|Kuala Lumpur|ringgit|Asia|Malay
the Philippines|Manila|peso|Asia|Filipino
Iran|Tehran|rial|Asia|Persian
Iraq|Baghdad|dinar|Asia|Arabic
Jordan|Amman|dinar|Asia|Arabic
Saudi Arabia|Riyadh|riyal|Asia|Arabic
Egypt|Cairo|pound|Africa|Arabic
Morocco|Rabat|dirham|Africa|Arabic
Algeria|Algiers|dinar|Africa|Arabic
Tunisia|Tunis|dinar|Africa|Arabic
Kenya|Nairobi|shilling|Africa|Swahili
Tanzania|Dodoma|shilling|Africa|Swahili
Ethiopia|Addis Ababa|birr|Africa|Amharic
Somalia|Mogadishu|shilling|Africa|Somali
Nigeria|Abuja|naira|Africa|English
Ghana|Accra|cedi|Africa|English
Senegal|Dakar|franc|Africa|French
Madagascar|Antananarivo|ariary|Africa|Malagasy
the United States|Washington|dollar|North America|English
Canada|Ottawa|dollar|North America|English
Mexico|Mexico City|peso|North America|Spanish
Cuba|Havana|peso|North America|Spanish
Jamaica|Kingston|dollar|North America|English
Brazil|Brasilia|real|South America|Portuguese
Argentina|Buenos Aires|peso|South America|Spanish
Chile|Santiago|peso|South America|Spanish
Peru|Lima|sol|South America|Spanish
Colombia|Bogota|peso|South America|Spanish
Ecuador|Quito|dollar|South America|Spanish
Uruguay|Montevideo|peso|South America|Spanish
Venezuela|Caracas|bolivar|South America|Spanish
Australia|Canberra|dollar|Oceania|English
New Zealand|Wellington|dollar|Oceania|English
Samoa|Apia|tala|Oceania|Samoan
"""

# cities besides the capitals; continent and language follow from the country
OTHER_CITIES = """
Lyon|France
Marseille|France
Munich|Germany
Hamburg|Germany
Milan|Italy
Venice|Italy
Seville|Spain
Porto|Portugal
Rotterdam|the Netherlands
Salzburg|Austria
Gothenburg|Sweden
Bergen|Norway
Krakow|Poland
Zurich|Switzerland
Manchester|the United Kingdom
Liverpool|the United Kingdom
Izmir|Turkey
Osaka|Japan
Kyoto|Japan
Shanghai|China
Busan|South Korea
Alexandria|Egypt
Casablanca|Morocco
Mombasa|Kenya
Lagos|Nigeria
Chicago|the United States
Boston|the United States
Toronto|Canada
Vancouver|Canada
Monterrey|Mexico
Sao Paulo|Brazil
Rosario|Argentina
Medellin|Colombia
Sydney|Australia
Melbourne|Australia
Auckland|New Zealand
"""

# invented: company | product | city of its head office
COMPANIES = """
Brightloom|carpets|Porto
Coppervale|kettles|Warsaw
Dunmere|bicycles|Copenhagen
Eastwick|pianos|Vienna
Fernhill|teapots|Kyoto
Goldcrest|watches|Zurich
Harrowgate|umbrellas|London
Ironbark|tractors|Chicago
Juniper Lane|candles|Dublin
Kestrel|gliders|Munich
Larkspur|perfumes|Paris
Mossbridge|blankets|Reykjavik
Northwind|turbines|Oslo
Oakenfold|violins|Milan
Pinecone|tents|Vancouver
Quillworks|pens|Hamburg
Redwater|boats|Bergen
Silverleaf|mirrors|Venice
Thornbury|boots|Rosario
Umberline|paints|Lisbon
Valecrest|helmets|Osaka
Westmarch|trains|Shanghai
Yellowgate|lamps|Helsinki
Zephyrine|kites|Wellington
Amberfield|guitars|Seville
"""

PEOPLE = """
Mara Ellison; Tobias Fenn; Ingrid Solheim; Callum Reyes; Priya Nandan; Oskar Lindqvist; Leona Hart; Mateo Varga;
Sylvie Moreau; Rufus Okafor; Hana Kimura; Dmitri Volkov; Esther Quill; Jonas Brandt; Nadia Rahman; Felix Archer;
Wanda Kowal; Pedro Salinas; Greta Holm; Amos Whitfield; Yuki Tanabe; Clara Dunning; Ivan Petrov; Rosa Delgado;
Simon Ashby; Leila Haddad; Victor Blanc; Thea Marsh; Omar Farouk; Bridget Lowe; Hugo Steiner; Mina Cho;
Edgar Pike; Freya Nilsen; Luca Ferrari; Joanna Stone; Kofi Mensah; Daphne Rossi; Walter Grimm; Anika Patel;
Gideon Frost; Petra Novak; Samuel Wren; Bianca Costa; Niels Bakker; Odette Laurent; Marcus Tull; Selma Aydin;
Arthur Bloom; Jasmine Ortega; Conrad Vale; Helga Krause; Desmond Achebe; Paloma Cruz; Rowan Tate; Kirsten Dahl;
Milo Jansen; Ursula Finch; Bruno Meyer; Celeste Monroe; Ravi Menon; Astrid Berg; Nolan Price; Vera Sokolov
"""

# never written about in training: for questions whose answer stands in the text before them
HELD_OUT_PEOPLE = """
Agnes Thorpe; Cyrus Malik; Dorothy Kane; Emil Hansen; Flora Baines; Gustav Rehn; Imogen Slate; Jorge Prado
"""

PROFESSIONS = """
baker; carpenter; doctor; farmer; gardener; judge; lawyer; musician; nurse; painter; pilot; plumber; potter; sailor;
sculptor; tailor; teacher; writer; butcher; chemist; dentist; librarian; mechanic; photographer
"""

NUMBERS = """
one; two; three; four; five; six; seven; eight; nine; ten; eleven; twelve; thirteen; fourteen; fifteen; sixteen;
seventeen; eighteen; nineteen; twenty; twenty-one; twenty-two; twenty-three; twenty-four; twenty-five; twenty-six;
twenty-seven; twenty-eight; twenty-nine; thirty
"""

DAYS = "Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday"

MONTHS = "January; February; March; April; May; June; July; August; September; October; November; December"

SEASONS = "spring; summer; autumn; winter"

COLOURS = "red; blue; green; yellow; black; white; brown; purple; orange; pink; grey; silver"

OBJECTS = """
apple; balloon; banner; basket; bell; belt; bench; blanket; boat; book; bottle; bowl; box; brush; bucket; button; candle;
car; carpet; chair; clock; coat; cup; curtain; cushion; desk; dish; door; drum; dress; envelope; fan; fence; flag;
flower; folder; fork; gate; glove; guitar; hammer; hat; helmet; jacket; jar; kettle; key; kite; ladder; lamp; mask; mat;
mirror; mug; notebook; pan; pen; pencil; pillow; plate; pot; purse; ribbon; ring; robe; rope; scarf; shelf; shirt; shoe;
sofa; spoon; stone; table; tent; ticket; towel; toy; tray; truck; vase; wagon; wall; whistle; window
"""

# objects that occur in no multiple-choice question of the training text
HELD_OUT_OBJECTS = "bag; bike; blouse; cap; crown; lantern; marble; paddle; saddle; sled; stool; wheel"

OPPOSITES = """
hot|cold; big|small; tall|short; fast|slow; old|new; happy|sad; light|dark; open|closed; early|late; rich|poor;
strong|weak; full|empty; clean|dirty; wet|dry; hard|soft; loud|quiet; near|far; deep|shallow; wide|narrow;
thick|thin; high|low; sharp|blunt; smooth|rough; sweet|bitter; young|elderly; brave|cowardly; kind|cruel;
true|false; right|wrong; safe|dangerous; simple|complex; cheap|expensive; tight|loose; awake|asleep; alive|dead;
up|down; inside|outside; above|below; before|after; always|never; many|few; love|hate; begin|end; push|pull;
win|lose; give|take; buy|sell; arrive|depart; remember|forget
"""

PLURALS = """
cat|cats; dog|dogs; child|children; mouse|mice; foot|feet; tooth|teeth; goose|geese; man|men; woman|women;
person|people; ox|oxen; leaf|leaves; wolf|wolves; knife|knives; life|lives; shelf|shelves; loaf|loaves;
thief|thieves; city|cities; baby|babies; story|stories; party|parties; berry|berries; lady|ladies; box|boxes;
bus|buses; dish|dishes; watch|watches; church|churches; glass|glasses; tomato|tomatoes; potato|potatoes;
hero|heroes; house|houses; tree|trees; river|rivers; garden|gardens; window|windows; teacher|teachers;
flower|flowers
"""

PASTS = """
go|went; see|saw; eat|ate; run|ran; write|wrote; read|read; sing|sang; swim|swam; drink|drank; drive|drove;
speak|spoke; break|broke; take|took; give|gave; make|made; buy|bought; bring|brought; think|thought; teach|taught;
catch|caught; find|found; build|built; send|sent; sleep|slept; keep|kept; leave|left; meet|met; tell|told;
sell|sold; stand|stood; know|knew; grow|grew; throw|threw; fly|flew; fall|fell; feel|felt; hold|held; walk|walked;
play|played; open|opened; visit|visited; help|helped
"""

# emotion | its near neighbours, and below them situations that bring it about ("because she ...")
EMOTIONS = """
happy|joyful, glad, delighted, cheerful
won first prize at the fair; found the lost ring; got a letter from an old friend;
finished the long work at last; was given a birthday cake

sad|unhappy, gloomy, sorrowful, tearful
lost the old dog; had to say goodbye; broke the favourite cup;
missed the farewell party; heard the bad news from home

angry|furious, cross, annoyed, mad
was cheated at the market; found the window smashed; was blamed for nothing;
saw someone steal the bicycle; was shouted at without reason

afraid|scared, frightened, terrified, anxious
heard a strange noise at night; got lost in the dark forest; saw a snake on the path;
stood at the edge of the cliff; was followed by a stranger

surprised|amazed, astonished, startled, stunned
opened the door and everyone shouted; saw snow in the middle of summer; met an old classmate abroad;
found a coin in the bread; heard a parrot answer back

proud|pleased, honoured, triumphant, confident
built the boat alone; taught a child to read; reached the top of the mountain;
saw the painting in the museum; passed the hardest exam

tired|weary, exhausted, sleepy, worn out
worked through the whole night; carried stones all day; walked forty miles;
had not slept for two days; danced until the morning

lonely|alone, forgotten, isolated, friendless
moved to a city without friends; ate dinner in an empty house; had nobody to talk to;
spent the holiday in a hotel room; watched the others leave together

ashamed|guilty, embarrassed, sorry, humbled
told a lie and was found out; forgot a best friend's birthday; spilled soup on the guest;
copied the answers of another; broke a promise

curious|interested, inquisitive, eager, fascinated
found a locked wooden chest; heard voices behind the wall; saw a map with a red cross;
got a letter without a name; noticed a light in the empty tower

calm|peaceful, relaxed, serene, quiet
sat by the still lake; listened to soft rain; drank warm tea by the fire;
watched the clouds drift by; walked slowly through the garden

grateful|thankful, obliged, touched, moved
was helped by a stranger; got a warm coat in winter; was carried home after the fall;
was forgiven at once; was taught for free
"""

# names for dialogues and for people who exist in one story only
FIRST_NAMES = """
Anna; Ben; Carl; Dora; Eva; Frank; Gina; Hans; Iris; Jack; Kate; Leo; Maria; Nick; Olga; Paul; Rita; Sam; Tina; Tom
"""

LAST_NAMES = """
Adler; Birch; Carver; Drake; Eden; Forster; Gray; Hollow; Ives; Jarvis; Keller; Lamb; Moss; North; Oakley; Penn; Reed;
Shaw; Thorn; Underhill; Vance; Webb; Yates; Zeller
"""
