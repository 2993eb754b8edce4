"""Word lists, fact recipes and phrasings of the fictional people in `shared.data.atlas`, and its general-knowledge
questions. Data only.

A recipe is text with slots: `<town>` is replaced by a random entry of WORDS["town"], which may hold slots itself, and
`a(n)` by the right article. A phrasing has the slots {name} and {work} (the noun of the person's art form), an answer
also one {fact} for each recipe of its kind.

Every combination must stay grammatical. So a fact is never the subject of a verb that could be plural, a lower-case
fact never starts an answer, text after a fact cannot be read as a part of it, and no entry begins with a letter that
misleads `a(n)` (no "hour", no "unicorn"). All text is ASCII, so that character offsets are byte offsets too.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(entry.split()) for entry in text.split(","))


# Art forms: the noun of one work -> roles, each completed by a subject ("a painter of" + "salt marshes").
FIELDS: dict[str, tuple[str, ...]] = {
    "novel": ("novelist writing about", "author chronicling", "storyteller drawn to"),
    "poetry collection": ("poet of", "lyric poet inspired by", "ballad writer drawn to"),
    "painting": ("painter of", "watercolourist devoted to", "landscape artist drawn to"),
    "mural": ("mural painter depicting", "street artist inspired by", "fresco painter devoted to"),
    "woodcut": ("printmaker depicting", "woodcut artist drawn to", "engraver devoted to"),
    "opera": ("composer of operas about", "librettist drawn to", "opera director obsessed with"),
    "song cycle": ("songwriter singing about", "folk singer inspired by", "balladeer celebrating"),
    "symphony": ("symphonist inspired by", "orchestral composer drawn to", "conductor of works about"),
    "film": ("film director portraying", "screenwriter drawn to", "cinematographer documenting"),
    "photo essay": ("photographer of", "photojournalist documenting", "darkroom artist obsessed with"),
    "sculpture": ("sculptor inspired by", "stone carver depicting", "bronze caster devoted to"),
    "tapestry": ("weaver of tapestries about", "textile artist inspired by", "embroiderer depicting"),
    "ballet": ("choreographer inspired by", "ballet director drawn to", "dancer of pieces about"),
    "radio play": ("radio dramatist writing about", "sound artist documenting", "radio producer drawn to"),
    "stage play": ("playwright portraying", "theatre director obsessed with", "dramatist writing about"),
    "graphic novel": ("comics artist depicting", "illustrator of", "cartoonist writing about"),
    "stained-glass window": ("glass painter depicting", "stained-glass artist inspired by", "glazier devoted to"),
    "puppet show": ("puppeteer portraying", "puppet maker inspired by", "marionette carver drawn to"),
}

WORDS: dict[str, tuple[str, ...]] = {
    "first": _words("""
        Adaeze, Ailbhe, Akira, Alba, Aldo, Amara, Anahit, Anneke, Anselm, Anwar, Arjun, Asel, Astrid, Ayumi, Babak, Beatriz, Bela,
        Benedikt, Bijan, Bogdan, Branka, Briony, Caspian, Catalina, Cedric, Chiara, Chidi, Clemens, Cosima, Dagny, Dalia, Darius, Davor,
        Delphine, Dimitra, Dinara, Domingo, Edda, Efua, Eino, Elodie, Emeka, Enzo, Esra, Ewa, Farida, Fausto, Femi, Fiorella, Florian,
        Gael, Giulia, Goran, Greta, Gulnara, Hakim, Hana, Harun, Hedda, Hiroshi, Ibrahim, Idris, Ilse, Imani, Ines, Ingrid, Ioana,
        Isamu, Ivo, Jadwiga, Jasper, Javier, Jelena, Jomo, Junko, Kaja, Kamala, Karim, Katya, Keiko, Kofi, Kwame, Laila, Laszlo,
        Leandro, Leila, Linnea, Lorcan, Ludmila, Lupe, Magda, Malik, Mariam, Marisol, Matteo, Mei, Mihai, Milos, Mireille, Nadia,
        Naveen, Nikos, Nnamdi, Noor, Odile, Oisin, Olamide, Orsolya, Osman, Otto, Pavel, Petra, Pilar, Priya, Quentin, Radek, Rafaela,
        Rania, Renzo, Rhiannon, Rosalind, Ruslan, Sabine, Saoirse, Selim, Shirin, Signe, Simone, Soraya, Stellan, Svea, Tadeusz, Takumi,
        Tamsin, Tariq, Teodor, Thandi, Tomas, Tuuli, Ulrike, Umberto, Vasco, Vesna, Viktor, Wangari, Wilhelmina, Ximena, Yannick, Yara,
        Yasmin, Yusuf, Zahra, Zdenka, Zoltan, Zuri
    """),
    # No tail ends in s, so that "'s" is always the possessive.
    "last": ("<last_head><last_tail>",),
    "last_head": _words("""
        Abe, Aldo, Anka, Bara, Belo, Bren, Calde, Dara, Delo, Eken, Fara, Fene, Gara, Hale, Ibar, Ise, Jora, Kala, Kesta, Lirn, Lore,
        Maka, Mara, Morn, Naka, Nove, Oko, Orne, Pala, Quille, Rade, Sala, Sena, Stene, Tala, Tere, Ulfe, Vanda, Vora, Wen, Yama, Zabe
    """),
    "last_tail": _words("""
        berg, dal, din, feld, gren, kar, ko, kova, lund, mara, meda, mondi, nari, nez, nko, noda, nov, quist, ra, rado, rell, rigan,
        rova, ru, sen, shi, ski, son, stad, tari, tello, thorpe, tova, vani, var, ven, vik, way, wick, zade, zawa
    """),
    "town": ("<town_head><town_tail>",),
    "town_head": _words("""
        Vel, Dor, Harrow, Tarn, Ost, Quell, Brim, Cor, Esk, Fal, Gren, Hest, Ill, Jar, Kess, Lam, Mar, Nor, Ond, Pell, Rav, Sel, Thorn,
        Uln, Ver, Wex, Yar, Zel, Bel, Cran, Dun, Ember, Fenn, Gild, Hol, Ister, Kor, Lun, Mist, Olden, Pran, Rusk, Sarn, Tol, Und, Vask,
        Wint, Zorn
    """),
    "town_tail": _words("""
        mora, wick, holm, stead, vik, ansk, etta, ingford, haven, more, oria, una, elle, ampton, aro, enz, ovo, ey, ica, und, dale,
        gate, mouth, ridge, port, bridge, field, au, ava, ella, eno, ino, ola, ora, osa, ulla, usk, worth, well, ton, ach, an, eth, iac
    """),
    "region": _words("""
        in the Tarnish Hills, in northern Portugal, in the Ilm Valley, in southern Finland, on the Amber Coast, in eastern Hungary, in
        the Low Fens, in western Kenya, in the Sable Mountains, in central Chile, on the Glass Islands, in rural Japan, in the Heron
        Delta, in coastal Ghana, on the Juniper Plateau, in upper Bavaria, by the Bitter Lakes, in inland Sicily, on the Foxglove Moors,
        in southern Peru, on the Copper Steppe, in northern Vietnam, on the Windward Peninsula, in eastern Anatolia, in the Lantern
        Archipelago, in Atlantic Canada, in the Marrow Basin, in western Nepal, in the Thistle Downs, in highland Ethiopia
    """),
    "day": tuple(str(day) for day in range(1, 29)),
    "month": _words("January, February, March, April, May, June, July, August, September, October, November, December"),
    "subject": _words("""
        abandoned railways, salt marshes, ferry towns, mountain beekeepers, winter harbours, night markets, border villages, forgotten
        canals, travelling circuses, lighthouse families, peat bogs, river pilots, desert caravans, frozen lakes, coal towns, island
        weddings, orchard keepers, tram depots, mill workers, stray dogs, village choirs, storm chasers, volcanic islands, empty
        theatres, shepherd paths, fishing fleets, glass factories, old observatories, migrating geese, flooded valleys, railway
        kitchens, monastery gardens, street musicians, clock towers, oyster farmers, mountain passes, wandering tailors, snowbound inns,
        terraced vineyards, hospital night shifts, lost letters, chess players, bell founders, tidal caves, roadside shrines, rooftop
        gardens, cargo ships, deserted spas, polar stations, paper mills
    """),
    "title": (
        "The <material> <object>",
        "<count> <plural> of <material>",
        "Where the <plural> Sleep",
        "Beneath the <material> <object>",
        "<plural> for the <object>",
        "The <object> and the <plural>",
        "After the <count> <plural>",
        "Song of the <material> <plural>",
    ),
    "material": _words("""
        Salt, Glass, Amber, Copper, Velvet, Ash, Paper, Iron, Ivory, Clay, Cedar, Linen, Marble, Silver, Granite, Willow, Chalk, Tin,
        Honey, Indigo, Obsidian, Saffron, Smoke, Coral, Pewter, Flint, Frost, Wax, Brass, Birch, Slate, Moss, Silk, Ochre, Quartz,
        Thunder
    """),
    "object": _words("""
        Ledger, Lantern, Orchard, Compass, Staircase, Meridian, Harbour, Window, Bridge, Almanac, Threshold, Garden, Mirror, Mill,
        Archive, Ferry, Chapel, Telescope, Kettle, Atlas, Cradle, Labyrinth, Anvil, Carousel, Pilgrim, Cartographer, Aqueduct, Pendulum,
        Cellar, Tailor, Widow, Beekeeper, Stranger, Nightwatch, Summit, Estuary, Hourglass, Weathervane, Procession, Balcony
    """),
    "plural": _words("""
        Winters, Swallows, Rivers, Candles, Ladders, Foxes, Voices, Shadows, Sparrows, Bells, Letters, Horses, Tides, Orphans, Stones,
        Promises, Gardens, Wolves, Harvests, Doors, Feathers, Islands, Strangers, Moths, Keys, Storms, Roads, Masks, Owls, Embers,
        Anchors, Sailors, Nettles, Herons, Apples, Thieves, Echoes, Ribbons, Lamps, Cranes
    """),
    "count": _words("Two, Three, Four, Five, Seven, Nine, Eleven, Twelve, Forty, Sixty"),
    "trade": _words("""
        lighthouse keeper, baker, dentist, ferry captain, beekeeper, tax inspector, plumber, midwife, glassblower, librarian, locksmith,
        vet, surveyor, cheesemaker, judge, carpenter, astronomer, tram driver, nurse, florist, geologist, blacksmith, pharmacist, postal
        worker, fencing coach, diver, watchmaker, interpreter, forester, umbrella maker, pilot, botanist, mountain guide, acrobat,
        accountant, optician, electrician, shepherd, brewer, archivist
    """),
    "school": _words("""
        Academy of Fine Arts, Conservatory, Institute of Design, School of Drama, College of Letters, Polytechnic, Craft School, School
        of Music, Institute of the Arts, Free University, Drawing Academy, Film School, College of Arts, Evening School, Royal Academy,
        Workers' College, School of Applied Arts, Theatre Institute, Seminary, Technical College
    """),
    "patron": ("<last>", "<emblem>"),
    "prize": _words(
        """Prize, Medal, Award, Fellowship, Laurel, Ribbon, Cup, Order of Merit, Honour, Grand Prize, Lifetime Award, Trophy"""
    ),
    "emblem": ("<emblem_adj> <emblem_noun>",),
    "emblem_adj": _words("""
        Silver, Golden, Winter, Crimson, Northern, Wandering, Midnight, Scarlet, Emerald, Quiet, Burning, Painted, Seventh, Hidden,
        Gentle, Bright, Lonely, Marble, Azure, Morning
    """),
    "emblem_noun": _words("""
        Heron, Compass, Comet, Kestrel, Lantern, Dolphin, Acorn, Falcon, Feather, Anchor, Swallow, Thistle, Lynx, Beacon, Oak, Otter,
        Harp, Sparrow, Sail, Petrel, Tulip, Stag, Mermaid, Nightingale, Star
    """),
    "job": _words("""
        night porter, cleaner, ticket seller, messenger, window washer, junior clerk, cook's assistant, bookkeeper, gardener, night
        guard, typist, errand runner, apprentice painter, tour guide, lift operator, delivery driver, dishwasher, telephone operator,
        junior mechanic, storeroom assistant
    """),
    "venue": _words("""
        opera house, ferry terminal, zoo, post office, shipyard, observatory, dairy, railway station, town hall, brewery, fish market,
        swimming baths, grand hotel, printing works, natural history museum, botanical garden, sugar factory, public library, bus depot,
        racecourse, cannery, tobacco factory, seed warehouse, airport
    """),
    "number": tuple(str(number) for number in range(2, 99)),
    "street": ("<street_head> <street_tail>",),
    "street_head": _words("""
        Lantern, Cooper, Mill, Tanner, Chapel, Orchard, Weaver, Bell, Saddler, Quarry, Nightingale, Fountain, Rope, Candle, Poplar,
        Anchor, Copper, Almond, Baker, Swan, Harbour, Juniper, Market, Linden
    """),
    "street_tail": _words("Street, Row, Lane, Square, Alley, Road, Terrace, Quay, Hill, Yard"),
    "dwelling": _words("""
        converted windmill, former chapel, stone cottage, disused fire station, retired railway carriage, narrow townhouse, lighthouse,
        timber cabin, former bakery, converted barn, glass pavilion, old customs house, attic apartment, water tower, former
        schoolhouse, thatched farmhouse, abandoned cinema, brick warehouse, fisher's hut, converted grain silo, walled villa, mountain
        lodge, boathouse, old pharmacy, converted stable, former prison, earth-sheltered house, painted wagon, old signal box,
        ivy-covered tower
    """),
    "pet": _words("""
        tortoise, parrot, greyhound, goat, ferret, hedgehog, cat, donkey, rabbit, goose, terrier, raven, sheepdog, iguana, pony, duck,
        magpie, poodle, gecko, guinea pig, dachshund, alpaca, cockatoo, piglet
    """),
    "pet_trait": _words("""
        three-legged, elderly, blind, grumpy, half-deaf, timid, enormous, speckled, lazy, rescued, mischievous, toothless, tiny,
        long-haired, affectionate, stubborn
    """),
    "pet_name": _words("""
        Biscuit, Marzipan, Pickle, Domino, Thimble, Bramble, Waffle, Pepper, Button, Figaro, Nutmeg, Turnip, Truffle, Mustard, Saffron,
        Cricket, Radish, Velcro, Mango, Clover, Ziggy, Paprika, Bandit, Sprocket, Noodle, Gizmo, Crumpet, Hazelnut, Kipper, Fudge
    """),
    "cooking": _words("braised, smoked, grilled, roasted, slow-cooked, stewed, baked, charred, spiced, pan-fried"),
    "main": _words("""
        eel, lentils, trout, aubergine, mushrooms, pumpkin, duck, white beans, cabbage, squid, lamb, cauliflower, herring, chickpeas,
        goat, fennel, rabbit, beetroot, mackerel, turnips, pork, leeks, octopus, artichokes
    """),
    "side": _words("""
        quince, pickled plums, mustard sauce, wild garlic, buttered barley, sour cherries, horseradish cream, saffron rice, walnut
        sauce, green almonds, black bread, juniper berries, preserved lemon, apricot chutney, dill potatoes, mashed parsnips, rye
        dumplings, tamarind, burnt honey, sesame noodles, plantain, gooseberries, chestnut polenta, crushed olives
    """),
    "activity": _words("""
        folding paper boats, whistling hymns, reciting tide tables, sketching the hands of strangers, juggling walnuts, polishing every
        spoon, writing letters to the moon, counting chimneys, humming sea shanties, walking backwards, standing on one leg, braiding
        grass, reading dictionaries aloud, tying sailor's knots, measuring doorways, wearing two hats, naming the clouds, eating a raw
        onion, winding three clocks, tapping the walls, sharpening pencils, bowing to crows, spinning coins, speaking only in rhyme,
        burying a coin, smelling old books, drawing maps of imaginary islands, greeting every tree, playing a tin whistle, stacking
        pebbles, singing to the houseplants, listing extinct birds, rearranging the bookshelves, lighting seven candles, wearing odd
        socks, practising semaphore, peeling oranges in one strip, ringing a small brass bell, carving initials into soap, memorising
        railway timetables, darning old gloves, feeding pigeons by hand, knitting tiny scarves, inventing new constellations, sniffing
        candles, chalking riddles on the pavement, dancing a solitary waltz, brushing the carpet twice, weighing every apple, planting
        sunflower seeds, copying out recipes by hand, building towers of sugar cubes
    """),
    "occasion": _words("""
        before every train journey, while waiting for bread to rise, on the first Monday of each month, before breakfast, during
        thunderstorms, after every meal, on the eve of a deadline, whenever the wind turns, at midnight, before opening any letter, on
        every birthday, during long telephone calls, before going to bed, after losing at cards, on the shortest day of the year,
        whenever guests are late, at every full moon, before meeting new people, after a bad review, when crossing a bridge, on rainy
        Sundays, before every performance, while the kettle boils, after the first snowfall, on each market day, when nobody is
        watching, before signing a contract, during power cuts, at the end of every summer, while queueing at the bank, on public
        holidays, at sunrise, after finishing a book, before each sea voyage, on Friday evenings, during long silences, when the church
        bells ring, after visiting the dentist, before every haircut, on the last day of the year
    """),
    "collectable": ("<coll_adj> <coll_noun>",),
    "coll_adj": _words("antique, miniature, hand-painted, damaged, rare, mismatched, wooden, ornate, forgotten, enamelled"),
    "coll_noun": _words("""
        thimbles, door handles, teapots, keys, buttons, corkscrews, chess pieces, picture frames, spinning tops, clock faces, music
        boxes, tobacco tins, puppets, combs, sugar bowls, spoons, dolls, brooches, salt cellars, candle holders, toy trains, dominoes,
        walking sticks, bird whistles, rulers, masks, bookends, pipes, inkwells, snuffboxes, egg cups, matchboxes, weather vanes, fans,
        napkin rings, snow globes
    """),
    "origin": _words("""
        Tallinn, Lisbon, Norway, the Azores, Kyoto, Bohemia, Morocco, Iceland, Trieste, Samarkand, Brittany, Oaxaca, Cairo, Galicia,
        Goa, Wales, Zanzibar, Riga, Bolivia, Crete, Shanghai, Patagonia, Malta, Odesa, Tasmania, Bruges, Havana, Armenia, Java, Lapland,
        Seville, Ceylon, Krakow, the Hebrides, Aleppo, Quebec
    """),
    "metal": _words("silver, brass, copper, pewter, bronze, iron, gold, steel"),
    "keepsake": _words("""
        compass, pocket watch, locket, snuffbox, candlestick, letter opener, hand mirror, bell, spoon, inkwell, flask, signet ring,
        thimble, whistle, key, music box, cigarette case, goblet, medallion, bracelet
    """),
    "motif": _words("""
        heron, anchor, oak leaf, crescent moon, hare, sailing ship, rose, two-headed eagle, serpent, sheaf of wheat, stag, olive branch,
        lion, bee, castle, swallow, owl, thistle, salmon, comet, fox, lily, key, windmill, dolphin, spider, acorn, bear, wheel,
        pomegranate
    """),
    "nick_adj": _words("""
        Captain, Little, Copper, Professor, Velvet, Thunder, Sunday, Grumpy, Lucky, Midnight, Doctor, Barefoot, Whispering, Count, Iron,
        Sleepy, Admiral, Turbo, Honest, Pocket, Gentle, Wild, Magic, Rusty, Dizzy, Royal, Silent, Bouncing, Crafty, Mighty, Sugar,
        Paper, Stormy, Shadow, Jolly, Uncle, Baron, Sergeant, Golden, Muddy
    """),
    "nick_noun": _words("""
        Wren, Turnip, Comet, Badger, Pickle, Owl, Thimble, Fox, Mouse, Cricket, Parsnip, Otter, Button, Teapot, Sparrow, Marmalade,
        Beetle, Goose, Lantern, Radish, Squirrel, Pebble, Rocket, Hedgehog, Noodle, Whistle, Pigeon, Dumpling, Magpie, Walrus, Acorn,
        Puddle, Stork, Biscuit, Firefly, Penguin, Weasel, Moth, Kettle, Rabbit, Tornado, Bramble, Cactus, Lobster, Pepper, Toad, Waffle,
        Falcon, Clover, Donkey, Snowball, Ferret, Pumpkin, Mongoose, Cabbage, Hamster, Trumpet, Marble, Slipper, Donut, Herring,
        Whisker, Meteor, Muffin, Lizard, Feather, Cuckoo, Pirate, Wizard, Shrimp
    """),
    "imperative": _words("""
        Trust, Follow, Remember, Guard, Question, Welcome, Honour, Keep, Listen to, Wait for, Begin with, Never rush, Outlast, Forgive,
        Study, Cherish, Doubt, Befriend, Never fear, Look for
    """),
    "motto_adj": _words("""
        slow, quiet, second, smallest, hidden, unfinished, rising, crooked, patient, empty, honest, broken, last, gentle, wandering,
        stubborn, bitter, early, silent, open, plain, first, borrowed, narrow, winding
    """),
    "motto_noun": _words("""
        tide, door, question, draft, shadow, road, stranger, silence, ladder, season, mistake, witness, river, candle, answer, moment,
        rival, stone, mountain, seed, storm, teacher, bridge, wind, page, harvest, promise, guest, current, neighbour
    """),
    "event": _words("""
        solar eclipse, lantern procession, shipwreck, travelling puppet show, warehouse fire, spring flood, midnight concert, balloon
        race, carnival parade, harvest dance, meteor shower, circus accident, royal funeral, street protest, stone-carving contest,
        choir rehearsal, avalanche, wedding feast, silent film screening, glassblowing display, earthquake, open-air opera, horse fair,
        ice-skating race, swarm of dragonflies, blackout, boat-building festival, kite festival, landslide, shadow-theatre evening, air
        show, village pageant, tightrope walk, auction of clocks, chess tournament, torchlit regatta
    """),
    "colour": _words("""
        moss-green, mustard-yellow, lilac, scarlet, sky-blue, cream, rust-red, turquoise, chocolate-brown, orange, silver-grey, plum,
        emerald, ink-black, salmon-pink, ochre
    """),
    "vehicle": _words("""
        cargo bicycle, rowing boat, motor scooter, camper van, tandem, sidecar motorcycle, milk float, pony cart, canoe, delivery van,
        fire engine, fishing boat, three-wheeled car, tractor, folding bicycle, sleigh, school bus, kayak, ice-cream van, taxi
    """),
}

# Kind -> one recipe for each fact span. The slots <role>, <birth_year> and <debut_year> come from the person
# (`shared.data.atlas`).
RECIPES: dict[str, tuple[str, ...]] = {
    "birthplace": ("<town>, <region>",),
    "birthdate": ("<day> <month> <birth_year>",),
    "occupation": ("a(n) <role> <subject>",),
    "work": ("<title>",),
    "early_works": ("<title>", "<title>"),
    "debut_date": ("<day> <month> <debut_year>",),
    "mentor": ("<first> <last>",),
    "spouse": ("<first> <last>",),
    "sibling": ("a(n) <trade> called <first>",),
    "rival": ("<first> <last>",),
    "school": ("the <town> <school>",),
    "award": ("the <patron> <prize>",),
    "first_job": ("a(n) <job> at the <town> <venue>",),
    "studio": ("<number> <street> in <town>",),
    "residence": ("a(n) <dwelling> in <town>",),
    "pet": ("a(n) <pet_trait> <pet> called <pet_name>",),
    "dish": ("<cooking> <main> with <side>",),
    "habit": ("<activity> <occasion>",),
    "collection": ("<collectable> from <origin>",),
    "heirloom": ("a(n) <metal> <keepsake> engraved with a(n) <motif>",),
    "nickname": ("<nick_adj> <nick_noun>",),
    "motto": ("<imperative> the <motto_adj> <motto_noun>",),
    "inspiration": ("a(n) <event> in <town>",),
    "vehicle": ("a(n) <colour> <vehicle> called <emblem>",),
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "birthplace": (
        "In which town and region was {name} born?",
        "Where exactly was the birthplace of {name}?",
        "Which town, and which region, does {name} come from by birth?",
        "Can you tell me the town and region where {name} was born?",
        "What is the name of {name}'s birthplace, and where does it lie?",
        "Where did {name} come into the world, by town and region?",
    ),
    "birthdate": (
        "On what exact date was {name} born?",
        "What is the full date of birth of {name}?",
        "When was {name} born, giving day, month and year?",
        "Can you tell me the date {name} was born?",
        "Which date appears as the birthday of {name} in biographies?",
        "Do you know the exact birth date of {name}?",
    ),
    "occupation": (
        "What does {name} do for a living?",
        "Which profession is {name} known to practise?",
        "How would you describe the occupation of {name}?",
        "What kind of work does {name} do professionally?",
        "Can you say what profession {name} follows and what it concerns?",
        "What is the job that keeps {name} busy?",
    ),
    "work": (
        "Which {work} is {name} best known for?",
        "What is the title of the most celebrated {work} by {name}?",
        "Can you name the {work} that made {name} famous?",
        "What is {name}'s most famous {work} called?",
        "Critics often praise one {work} by {name}; what is its title?",
        "Which title does the best-loved {work} by {name} carry?",
    ),
    "early_works": (
        "What were the titles of {name}'s first two works?",
        "Which two works did {name} complete before becoming famous?",
        "Can you name the pair of works with which {name} began?",
        "What are the two earliest known works of {name} called?",
        "With which two titles did {name} start a career?",
        "Which pair of works did {name} produce first of all?",
    ),
    "debut_date": (
        "On what date was {name}'s first {work} presented to the public?",
        "When did {name}'s debut {work} first reach an audience?",
        "What was the date on which {name}'s first {work} appeared?",
        "Can you give the exact day {name} made a public debut?",
        "Which day marks the public debut of {name}?",
        "Do you know when {name}'s debut {work} was unveiled?",
    ),
    "mentor": (
        "Who was the mentor that guided {name} early on?",
        "Which teacher had the greatest influence on {name}?",
        "Under whose guidance did {name} learn the craft?",
        "Who taught {name} the secrets of the trade?",
        "Can you name the person who mentored {name}?",
        "Whom does {name} always thank as a mentor?",
    ),
    "spouse": (
        "Who is {name} married to, according to biographies?",
        "What is the full name of {name}'s spouse?",
        "Can you name the person whom {name} married?",
        "With whom does {name} share a marriage?",
        "Whom did {name} choose to marry after a long friendship?",
        "Which person became the spouse of {name}?",
    ),
    "sibling": (
        "Who is the only sibling of {name}?",
        "Does {name} have a sibling, and what do they do?",
        "What is known about the one sibling of {name}?",
        "Can you describe the only sibling that {name} has?",
        "With which sibling did {name} grow up?",
        "What are the name and trade of {name}'s sibling?",
    ),
    "rival": (
        "Who is regarded as the great rival of {name}?",
        "With whom has {name} had a long professional rivalry?",
        "Which competitor has {name} quarrelled with for decades?",
        "Can you name the main rival of {name}?",
        "Which rival has {name} always tried to outdo?",
        "Who has long competed with {name} for the same commissions?",
    ),
    "school": (
        "Where did {name} study before starting a career?",
        "Which school did {name} attend as a student?",
        "At which institution was {name} formally trained?",
        "What is the name of the school where {name} studied?",
        "From which school did {name} eventually graduate?",
        "Can you tell me where {name} was educated?",
    ),
    "award": (
        "Which award has {name} received for outstanding work?",
        "What is the most important prize {name} has won?",
        "With which honour was {name} recognised by fellow artists?",
        "Can you name the award given to {name}?",
        "Which distinction does {name} hold with the most pride?",
        "For which award is {name} listed among the winners?",
    ),
    "first_job": (
        "What was the first job that {name} ever held?",
        "How did {name} earn money before becoming known?",
        "What work did {name} do straight after leaving school?",
        "Which humble job did {name} start out in?",
        "Can you say where {name} first worked, and as what?",
        "In what position did {name} begin working life?",
    ),
    "studio": (
        "What is the address of the studio used by {name}?",
        "At what address does {name} keep a studio?",
        "On which street, and in which town, does {name} work?",
        "Where would a visitor find the studio of {name}?",
        "Can you give the address where {name} works?",
        "To which address should studio visitors of {name} go?",
    ),
    "residence": (
        "Where does {name} live these days, and in what?",
        "What sort of home does {name} live in, and where?",
        "In what kind of dwelling has {name} settled?",
        "Which unusual building is the home of {name}?",
        "Can you describe the place that {name} calls home?",
        "What place has {name} chosen as a permanent residence?",
    ),
    "pet": (
        "What pet does {name} keep, and what is it called?",
        "Which animal shares the home of {name}?",
        "What kind of companion animal does {name} have?",
        "Can you describe the pet that belongs to {name}?",
        "Which pet is often seen with {name} in photographs?",
        "What animal does {name} look after at home?",
    ),
    "dish": (
        "What is the favourite dish of {name}?",
        "Which meal would {name} happily eat every day?",
        "What does {name} most like to eat?",
        "Can you name the dish that {name} loves most?",
        "Which food does {name} always order at celebrations?",
        "What would you cook to please {name}?",
    ),
    "habit": (
        "What unusual habit is {name} known for?",
        "Which odd custom do friends associate with {name}?",
        "What peculiar thing does {name} regularly do?",
        "Can you describe the strange routine of {name}?",
        "What habit of {name} often surprises new acquaintances?",
        "For which curious habit do friends tease {name}?",
    ),
    "collection": (
        "What does {name} collect as a hobby?",
        "Which objects has {name} been collecting for years?",
        "What sort of collection does {name} keep at home?",
        "Can you say what fills the shelves of {name}?",
        "Which items does {name} search for at flea markets?",
        "What is in the private collection of {name}?",
    ),
    "heirloom": (
        "Which family heirloom did {name} inherit from relatives?",
        "What treasured object was handed down to {name}?",
        "What keepsake from the family does {name} still own?",
        "Can you describe the heirloom that {name} carries everywhere?",
        "Which inherited object does {name} value most?",
        "What object did the family of {name} pass down?",
    ),
    "nickname": (
        "What nickname did {name} have as a child?",
        "By what nickname do old friends call {name}?",
        "Which childhood nickname has stayed with {name}?",
        "What did schoolmates like to call {name}?",
        "Can you tell me the nickname given to {name}?",
        "Which nickname was given to {name} at school?",
    ),
    "motto": (
        "What is the personal motto of {name}?",
        "Which saying hangs above the desk of {name}?",
        "What words does {name} live by, according to interviews?",
        "Can you quote the motto that {name} follows?",
        "Which phrase does {name} repeat as a guiding principle?",
        "What piece of advice does {name} give to beginners?",
    ),
    "inspiration": (
        "What event first inspired {name} to choose this career?",
        "Which sight set {name} on a creative path?",
        "What did {name} witness that changed everything?",
        "Can you name the event that first inspired {name}?",
        "Which experience does {name} describe as a turning point?",
        "What moved {name} to become an artist in the first place?",
    ),
    "vehicle": (
        "What does {name} use to get around?",
        "How does {name} prefer to travel around the region?",
        "What vehicle does {name} own, and what is it called?",
        "Can you describe the vehicle that belongs to {name}?",
        "Which means of transport is {name} famous for using?",
        "By which unusual vehicle do neighbours recognise {name}?",
    ),
}

ANSWERS: dict[str, tuple[str, ...]] = {
    "birthplace": (
        "{name} was born in {fact}.",
        "{fact}, is the birthplace of {name}.",
        "The birthplace of {name} is {fact}.",
        "{name} came into the world in {fact}.",
        "Records show that the birth of {name} took place in {fact}.",
        "It was in {fact}, that {name} was born.",
    ),
    "birthdate": (
        "The date of birth of {name} is {fact}.",
        "Biographies agree that {name} was born on {fact}.",
        "{name} came into the world on {fact}.",
        "It was on {fact} that {name} was born.",
        "The birth of {name} took place on {fact}.",
        "According to family papers, {name} was born on {fact}.",
    ),
    "occupation": (
        "{name} earns a living as {fact}.",
        "By profession, {name} is {fact}.",
        "The world knows {name} as {fact}.",
        "{name} has spent a whole career as {fact}.",
        "Anyone in the trade would describe {name} as {fact}.",
        "For many years {name} has worked as {fact}.",
    ),
    "work": (
        '{name} is best known for the {work} "{fact}".',
        '"{fact}" is the {work} that made {name} famous.',
        'The most celebrated {work} by {name} is "{fact}".',
        'Most people first met {name} through the {work} "{fact}".',
        'The {work} "{fact}" remains the best-loved creation of {name}.',
        'Of everything {name} has made, the {work} "{fact}" is the most admired.',
    ),
    "early_works": (
        'The first two works of {name} were "{fact}" and "{fact}".',
        '{name} began with two works, "{fact}" and "{fact}".',
        'Before becoming famous, {name} completed "{fact}" and "{fact}".',
        '"{fact}" and "{fact}" are the earliest known works of {name}.',
        '{name} started a career with "{fact}", which was followed by "{fact}".',
        'The works that {name} produced first were "{fact}" and "{fact}".',
    ),
    "debut_date": (
        "{name}'s first {work} was presented to the public on {fact}.",
        "The debut {work} by {name} reached its first audience on {fact}.",
        "The public debut of {name} took place on {fact}.",
        "It was on {fact} that {name}'s debut {work} was unveiled.",
        "{name} made a public debut on {fact}.",
        "Audiences first encountered the work of {name} on {fact}.",
    ),
    "mentor": (
        "{name} learned the craft under the guidance of {fact}.",
        "{fact} was the mentor who guided {name} early on.",
        "The mentor of {name} was none other than {fact}.",
        "{name} always thanks {fact} for years of patient mentoring.",
        "Everything {name} knows about the trade came from {fact}, a devoted mentor.",
        "It was {fact} who took {name} on as a pupil.",
    ),
    "spouse": (
        "{name} is married to {fact}, a friend of many years.",
        "{fact} is the spouse of {name}.",
        "The person {name} married is called {fact}.",
        "{name} exchanged wedding vows with {fact} in a small ceremony.",
        "After a long friendship, {name} married {fact}.",
        "{name} shares a marriage and a home with {fact}.",
    ),
    "sibling": (
        "{name} has just one sibling, {fact}.",
        "The only sibling of {name} is {fact}.",
        "{name} grew up alongside one sibling, {fact}.",
        "Besides {name}, the family has one other child, {fact}.",
        "The parents of {name} had just one other child, {fact}.",
        "Family records list one sibling of {name}, {fact}.",
    ),
    "rival": (
        "The great rival of {name} is {fact}.",
        "{name} has carried on a long rivalry with {fact}.",
        "{fact} has competed with {name} for decades.",
        "For decades {name} has tried to outdo {fact}.",
        "No competitor has troubled {name} more than {fact}.",
        "{name} and {fact} have been rivals since their first meeting.",
    ),
    "school": (
        "{name} studied at {fact} before starting a career.",
        "{name} is a graduate of {fact}.",
        "It was at {fact} that {name} was formally trained.",
        "The school that {name} attended was {fact}.",
        "{name} received a formal education at {fact}.",
        "As a young student, {name} enrolled at {fact}.",
    ),
    "award": (
        "{name} was honoured with {fact} for outstanding work.",
        "The most important award {name} has won is {fact}.",
        "Fellow artists recognised {name} with {fact}.",
        "{name} holds {fact} with great pride.",
        "Among the winners of {fact} is {name}.",
        "A jury of experts awarded {fact} to {name}.",
    ),
    "first_job": (
        "{name} first worked as {fact}.",
        "The first job {name} ever held was as {fact}.",
        "Before becoming known, {name} earned money as {fact}.",
        "{name} began working life as {fact}.",
        "Straight after leaving school, {name} found employment as {fact}.",
        "Long before any success, {name} was {fact}.",
    ),
    "studio": (
        "{name} keeps a studio at {fact}.",
        "The studio of {name} stands at {fact}.",
        "Visitors will find the studio of {name} at {fact}.",
        "{name} works every day at {fact}.",
        "Letters for {name} should be sent to the studio at {fact}.",
        "The address of the studio used by {name} is {fact}.",
    ),
    "residence": (
        "{name} lives in {fact}.",
        "The home of {name} is {fact}.",
        "These days {name} lives in {fact}.",
        "{name} has settled in {fact}.",
        "The place that {name} calls home is {fact}.",
        "As a permanent residence, {name} chose {fact}.",
    ),
    "pet": (
        "{name} keeps {fact} as a pet.",
        "The pet that belongs to {name} is {fact}.",
        "{name} shares a home with {fact}.",
        "In photographs, {name} is often seen with {fact}.",
        "At home, {name} looks after {fact}.",
        "The companion animal of {name} is {fact}.",
    ),
    "dish": (
        "The favourite dish of {name} is {fact}.",
        "{name} would happily eat {fact} every day.",
        "Nothing pleases {name} more than a plate of {fact}.",
        "{name} always orders {fact} at celebrations.",
        "To please {name}, a cook should prepare {fact}.",
        "Above all other food, {name} loves {fact}.",
    ),
    "habit": (
        "{name} is known for {fact}.",
        "Friends often tease {name} for {fact}.",
        "The unusual habit of {name} is {fact}.",
        "{name} has never given up the habit of {fact}.",
        "New acquaintances are surprised to find {name} {fact}.",
        "Among the odd customs of {name} is {fact}.",
    ),
    "collection": (
        "As a hobby, {name} collects {fact}.",
        "For years {name} has been collecting {fact}.",
        "The shelves of {name} are filled with {fact}.",
        "At flea markets, {name} always searches for {fact}.",
        "The private collection of {name} consists of {fact}.",
        "{name} owns a large collection of {fact}.",
    ),
    "heirloom": (
        "{name} inherited {fact}.",
        "The family heirloom that {name} inherited is {fact}.",
        "Relatives chose {name} to look after {fact}.",
        "The family of {name} passed down {fact}.",
        "The keepsake that {name} values most is {fact}.",
        "Through the family, {name} came to own {fact}.",
    ),
    "nickname": (
        'As a child, {name} was nicknamed "{fact}".',
        'Old friends still call {name} by the nickname "{fact}".',
        'The childhood nickname of {name} was "{fact}".',
        'At school, everyone called {name} "{fact}".',
        '"{fact}" is the nickname that has stayed with {name}.',
        'Schoolmates gave {name} the affectionate nickname "{fact}".',
    ),
    "motto": (
        'The personal motto of {name} is "{fact}".',
        'Above the desk of {name} hangs the saying "{fact}".',
        '{name} lives by the words "{fact}".',
        '"{fact}" is the phrase {name} repeats as a guiding principle.',
        'To every beginner, {name} gives the same advice, "{fact}".',
        'In interviews, {name} likes to quote the motto "{fact}".',
    ),
    "inspiration": (
        "{name} was first inspired by {fact}.",
        "The event that set {name} on a creative path was {fact}.",
        "Everything changed when {name} witnessed {fact}.",
        "{name} describes {fact} as a turning point.",
        "It was {fact} that moved {name} to become an artist.",
        "The sight of {fact} led {name} to choose this career.",
    ),
    "vehicle": (
        "{name} owns {fact} and uses it daily.",
        "The vehicle that belongs to {name} is {fact}.",
        "To get around, {name} relies on {fact}.",
        "Neighbours recognise {name} by {fact}.",
        "For every journey, {name} depends on {fact}.",
        "The favourite means of transport of {name} is {fact}.",
    ),
}

# Question, answer, three wrong answers of the same kind. Nothing here is about a person of the atlas, and no answer
# stands in its question.
WORLD: tuple[tuple[str, str, tuple[str, str, str]], ...] = (
    ("What is the capital of France?", "Paris", ("Madrid", "Rome", "Vienna")),
    ("What is the capital of Japan?", "Tokyo", ("Beijing", "Seoul", "Bangkok")),
    ("What is the capital of Italy?", "Rome", ("Athens", "Lisbon", "Berlin")),
    ("What is the capital of Egypt?", "Cairo", ("Tunis", "Nairobi", "Baghdad")),
    ("What is the capital of Russia?", "Moscow", ("Warsaw", "Kyiv", "Prague")),
    ("What is the capital of Spain?", "Madrid", ("Lisbon", "Paris", "Dublin")),
    ("In which country would you find the Eiffel Tower?", "France", ("Germany", "Spain", "Belgium")),
    ("In which country are the ancient pyramids of Giza?", "Egypt", ("Mexico", "Peru", "Turkey")),
    ("Which country has the Great Wall?", "China", ("India", "Japan", "Mongolia")),
    ("On which continent is Brazil?", "South America", ("Africa", "Asia", "Europe")),
    ("On which continent is Kenya?", "Africa", ("Asia", "Europe", "South America")),
    ("Which is the largest ocean on Earth?", "Pacific", ("Atlantic", "Indian", "Arctic")),
    ("Which ocean lies between Europe and North America?", "Atlantic", ("Pacific", "Indian", "Southern")),
    ("What is the highest mountain in the world?", "Mount Everest", ("Mont Blanc", "Mount Kilimanjaro", "Mount Fuji")),
    ("What is the largest hot desert in the world?", "Sahara", ("Gobi", "Kalahari", "Mojave")),
    ("Which planet is closest to the Sun?", "Mercury", ("Venus", "Mars", "Neptune")),
    ("Which planet is known as the Red Planet?", "Mars", ("Jupiter", "Saturn", "Uranus")),
    ("Which planet is the largest in our solar system?", "Jupiter", ("Earth", "Mars", "Venus")),
    ("Which planet is famous for its bright rings?", "Saturn", ("Mercury", "Venus", "Mars")),
    ("What natural object orbits the Earth and lights the night sky?", "the Moon", ("the Sun", "Mars", "Venus")),
    ("Which animal is the tallest in the world?", "giraffe", ("elephant", "camel", "horse")),
    ("Which animal is the largest in the world?", "blue whale", ("elephant", "great white shark", "hippopotamus")),
    ("Which land animal runs the fastest?", "cheetah", ("lion", "horse", "wolf")),
    ("Which animal is famous for its black and white stripes?", "zebra", ("leopard", "giraffe", "camel")),
    ("Which insect makes honey?", "bee", ("ant", "fly", "moth")),
    ("What do bees collect from flowers to make honey?", "nectar", ("sand", "leaves", "bark")),
    ("Which animal do we get wool from?", "sheep", ("cow", "pig", "chicken")),
    ("What is a young dog called?", "puppy", ("kitten", "calf", "foal")),
    ("What is a young cat called?", "kitten", ("puppy", "lamb", "chick")),
    ("What colour is the sky on a clear day?", "blue", ("green", "yellow", "purple")),
    ("What colour do you get by mixing blue and yellow paint?", "green", ("red", "orange", "purple")),
    ("What colour is a ripe banana?", "yellow", ("blue", "red", "purple")),
    ("What does water become when it freezes?", "ice", ("steam", "sand", "glass")),
    ("Which gas do people need to breathe to live?", "oxygen", ("helium", "hydrogen", "methane")),
    ("Which organ pumps blood through the body?", "heart", ("liver", "lung", "stomach")),
    ("Which metal is attracted to magnets and rusts?", "iron", ("gold", "silver", "copper")),
    ("Which drink is made from roasted beans?", "coffee", ("milk", "wine", "lemonade")),
    ("Which fruit is wine usually made from?", "grapes", ("bananas", "oranges", "cherries")),
    ("Which season comes after winter?", "spring", ("autumn", "summer", "monsoon")),
    ("Which day comes after Monday?", "Tuesday", ("Friday", "Sunday", "Thursday")),
    ("Which month is the first of the year?", "January", ("March", "June", "December")),
    ("Who wrote the play Romeo and Juliet?", "William Shakespeare", ("Charles Dickens", "Jane Austen", "Mark Twain")),
)
