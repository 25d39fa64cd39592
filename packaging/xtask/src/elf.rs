//! One question about a binary: does it need a program interpreter, which is to say a dynamic linker and libraries?

/// Type of the program header that names the interpreter.
const PT_INTERP: u32 = 3;

/// Whether a 64-bit little-endian ELF file asks for an interpreter; `None` when it is no such file.
pub(crate) fn has_interpreter(file: &[u8]) -> Option<bool> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(*file.get(0x20..)?.first_chunk()?)).ok()?;
    let entry = usize::from(u16::from_le_bytes(*file.get(0x36..)?.first_chunk()?));
    let count = usize::from(u16::from_le_bytes(*file.get(0x38..)?.first_chunk()?));
    let mut found = false;
    for index in 0..count {
        let header = file.get(table.checked_add(index.checked_mul(entry)?)?..)?;
        found |= u32::from_le_bytes(*header.first_chunk()?) == PT_INTERP;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::has_interpreter;

    fn elf(headers: &[u32]) -> Vec<u8> {
        let mut file = vec![0_u8; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x20] = 0x40;
        file[0x36] = 8;
        file[0x38] = u8::try_from(headers.len()).unwrap();
        for kind in headers {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&[0; 4]);
        }
        file
    }

    #[test]
    fn interpreter_is_found_wherever_its_header_stands() {
        for (headers, expected) in [
            (&[1_u32, 2][..], Some(false)),
            (&[3, 1], Some(true)),
            (&[1, 1, 3], Some(true)),
            (&[], Some(false)),
        ] {
            assert_eq!(has_interpreter(&elf(headers)), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_is_cut_short_or_no_elf_is_not_called_static() {
        let mut cut = elf(&[1, 1]);
        cut.truncate(0x42);
        assert_eq!(has_interpreter(&cut), None);
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
    }
}
