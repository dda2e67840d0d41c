/**
 * The few ASN.1 shapes of a certificate, in words, over forge's DER reader and writer. Not a general ASN.1 library.
 * forge keeps bytes in binary strings; no such string leaves this file.
 */
import forge from 'node-forge'

export type Der = forge.asn1.Asn1

const { asn1 } = forge
const { Class, Type } = asn1

// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050.
const GENERALIZED_FROM_YEAR = 2050

// RFC 5280 §4.1: `extensions [3]`. forge types a context tag as one of the universal ones.
const EXTENSIONS_TAG = 3 as forge.asn1.Type

export const sequence = (...items: Der[]): Der => asn1.create(Class.UNIVERSAL, Type.SEQUENCE, true, items)
export const set = (...items: Der[]): Der => asn1.create(Class.UNIVERSAL, Type.SET, true, items)
export const nothing = (): Der => primitive(Type.NULL, '')
export const bool = (value: boolean): Der => primitive(Type.BOOLEAN, value ? '\xff' : '\x00')
export const integer = (bigEndian: Buffer): Der => primitive(Type.INTEGER, bigEndian.toString('latin1'))
export const octets = (bytes: Buffer): Der => primitive(Type.OCTETSTRING, bytes.toString('latin1'))
export const utf8 = (text: string): Der => primitive(Type.UTF8, Buffer.from(text, 'utf8').toString('latin1'))
export const oid = (dotted: string): Der => primitive(Type.OID, asn1.oidToDer(dotted).getBytes())

/** `unusedBits`: how many of the last byte's low bits do not count. */
export function bits(bytes: Buffer, unusedBits = 0): Der {
  return primitive(Type.BITSTRING, String.fromCharCode(unusedBits) + bytes.toString('latin1'))
}

export function time(moment: Date): Der {
  const digits = moment.toISOString().replace(/\.\d+|[-:T]/g, '') // 20300131120000Z
  const generalized = moment.getUTCFullYear() >= GENERALIZED_FROM_YEAR
  return generalized ? primitive(Type.GENERALIZEDTIME, digits) : primitive(Type.UTCTIME, digits.slice(2))
}

/** A context tag around an item. */
export const explicit = (tag: number, item: Der): Der =>
  asn1.create(Class.CONTEXT_SPECIFIC, tag, true, [item])

/** A context tag in the place of a primitive item's own. */
export function implicit(tag: number, bytes: Buffer): Der {
  return asn1.create(Class.CONTEXT_SPECIFIC, tag, false, bytes.toString('latin1'))
}

export function read(bytes: Buffer): Der {
  return asn1.fromDer(bytes.toString('latin1'))
}

export function write(item: Der): Buffer {
  return Buffer.from(asn1.toDer(item).getBytes(), 'latin1')
}

export function children(item: Der): Der[] {
  return Array.isArray(item.value) ? item.value : []
}

/** The child at an index. Asked of structures whose shape is known; throws when it is not there. */
export function child(item: Der, index: number): Der {
  const found = children(item)[index]
  if (found === undefined) throw new RangeError(`no element ${index} in this ASN.1 structure`)
  return found
}

/** The bytes inside a primitive item, as they stand. */
export function content(item: Der): Buffer {
  const encoded = write(item)
  // X.690 §8.1.3: one length byte below 128, else that many more bytes.
  const first = encoded[1] ?? 0
  return encoded.subarray(first < 0x80 ? 2 : 2 + (first & 0x7f))
}

/** The value of an extension in a TBSCertificate (RFC 5280 §4.1.2.9), still DER. */
export function extensionValue(tbs: Der, id: string): Buffer | undefined {
  const wrapper = children(tbs).find(
    ({ tagClass, type }) => tagClass === Class.CONTEXT_SPECIFIC && type === EXTENSIONS_TAG
  )
  if (wrapper === undefined) return undefined
  const wanted = write(oid(id))
  const found = children(child(wrapper, 0)).find(extension => write(child(extension, 0)).equals(wanted))
  // extnValue is the last of two or three fields: `critical` may be absent.
  return found && content(child(found, children(found).length - 1))
}

function primitive(type: forge.asn1.Type, value: string): Der {
  return asn1.create(Class.UNIVERSAL, type, false, value)
}
